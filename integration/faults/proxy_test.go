package faults

// WeChat's stand-in, and Toxiproxy in front of it.

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// wechat is a sandbox that remembers what it has stored.
type wechat struct {
	*sandbox.Server
	addr string

	mu     sync.Mutex
	stored [][]byte
}

// startWechat runs a sandbox until the test ends.
func startWechat(t *testing.T) *wechat {
	t.Helper()
	plenty := map[sandbox.Endpoint]int{}
	w := &wechat{Server: sandbox.New(sandbox.Options{
		Apps: map[string]string{appID: secret}, KeepAlive: true, MaxMemory: 1 << 30, DailyQuota: plenty, MinuteQuota: plenty,
	})}
	w.OnStored(func(_ string, content []byte) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.stored = append(w.stored, content)
	})
	srv := httptest.NewServer(w)
	t.Cleanup(srv.Close)
	w.addr = strings.TrimPrefix(srv.URL, "http://")
	return w
}

// copies is how often a file has been stored.
func (w *wechat) copies(content []byte) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.stored {
		if bytes.Equal(c, content) {
			n++
		}
	}
	return n
}

// host is an address of WeChat's. What reaches it goes through a Toxiproxy, and
// through another one when the weather changes: toxics that are taken away from
// connections under way can leave Toxiproxy locked up for good.
type host struct {
	t         *testing.T
	addr, url string
	wechat    string // what is behind it

	mu       sync.Mutex
	listener net.Listener
	via      string // the current Toxiproxy
	conns    map[*net.TCPConn]bool
}

// startHost runs a host until the test ends.
func startHost(t *testing.T, wechat string) *host {
	t.Helper()
	h := &host{t: t, addr: loopback.FreeAddr(t), wechat: wechat, conns: make(map[*net.TCPConn]bool)}
	h.url = "http://" + h.addr
	h.weather()
	h.up()
	t.Cleanup(h.down)
	return h
}

// toxic is one of Toxiproxy's faults.
type toxic struct {
	Name       string         `json:"name"`
	Type       string         `json:"type"`
	Stream     string         `json:"stream"` // downstream is from WeChat, upstream to it
	Toxicity   float64        `json:"toxicity"`
	Attributes map[string]int `json:"attributes"`
}

// weather says what befalls connections from now on, one toxic behind the other.
func (h *host) weather(toxics ...toxic) {
	h.t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	p := toxiproxy.NewProxy(server, "wechat", "127.0.0.1:0", h.wechat)
	for _, tox := range toxics {
		tox.Name = tox.Type + " " + tox.Stream
		if tox.Toxicity == 0 {
			tox.Toxicity = 1
		}
		raw, err := json.Marshal(tox)
		if err == nil {
			_, err = p.Toxics.AddToxicJson(bytes.NewReader(raw))
		}
		if err != nil {
			h.t.Errorf("adding toxic %s: %v", raw, err)
		}
	}
	if err := p.Start(); err != nil {
		h.t.Error(err)
		return
	}
	h.t.Cleanup(p.Stop)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.via = p.Listen
}

// hangUp ends all connections.
func (h *host) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for conn := range h.conns {
		conn.Close()
	}
}

// down makes the host refuse connections, and hang up.
func (h *host) down() {
	h.mu.Lock()
	h.listener.Close()
	h.mu.Unlock()
	h.hangUp()
}

func (h *host) up() {
	l, err := net.Listen("tcp", h.addr)
	if err != nil {
		h.t.Error(err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listener = l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go h.relay(conn.(*net.TCPConn))
		}
	}()
}

// relay passes a connection on, its end in good order or otherwise included.
func (h *host) relay(gateway *net.TCPConn) {
	h.mu.Lock()
	via := h.via
	h.mu.Unlock()
	conn, err := net.Dial("tcp", via)
	if err != nil {
		gateway.Close()
		return
	}
	wechat := conn.(*net.TCPConn)
	for _, c := range []*net.TCPConn{gateway, wechat} {
		_ = c.SetReadBuffer(64 << 10) // what is in here looks to the gateway as if it had arrived
		_ = c.SetWriteBuffer(64 << 10)
		h.mu.Lock()
		h.conns[c] = true
		h.mu.Unlock()
		defer func() {
			c.Close()
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.conns, c)
		}()
	}
	pass := func(from, to *net.TCPConn) {
		if _, err := io.Copy(to, from); err == nil {
			_ = to.CloseWrite()
			return
		}
		for _, c := range []*net.TCPConn{from, to} {
			_ = c.SetLinger(0)
			c.Close()
		}
	}
	var both sync.WaitGroup
	both.Go(func() { pass(gateway, wechat) })
	both.Go(func() { pass(wechat, gateway) })
	both.Wait()
}
