package faults

// An upstream that puts bytes on the wire, whatever HTTP makes of them.

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// wireToken is the access token of wire and must show up nowhere.
var wireToken = strings.Repeat("sentinel-token-", 6)

// ending is what becomes of a connection after the reply.
type ending string

const (
	closes ending = "closes" // in good order, as far as TCP goes
	resets ending = "resets"
	stalls ending = "stalls" // stays open, and silent
	stays  ending = "stays"  // is used again
)

// script is what wire does with one request.
type script struct {
	reply  []byte
	end    ending
	second []byte        // goes out after a while: bytes that nobody asked for
	pause  time.Duration // before second
}

// wire follows scripts. The media_id of a download, or the User-Agent of an
// upload, says which.
type wire struct {
	addr, url string
	done      chan struct{}

	mu      sync.Mutex
	scripts map[string]script
	seen    map[string]int
}

// startWire runs a wire until the test ends, behind TLS if there is a certificate.
func startWire(t *testing.T, cert *tls.Certificate) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), done: make(chan struct{}), scripts: make(map[string]script), seen: make(map[string]int)}
	w.url = "http://" + w.addr
	if cert != nil {
		w.url = "https://" + w.addr
	}
	var conns sync.WaitGroup
	t.Cleanup(func() {
		close(w.done)
		l.Close()
		conns.Wait()
	})
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { w.serve(conn.(*net.TCPConn), cert) })
		}
	})
	return w
}

// on sets the script for a key.
func (w *wire) on(key string, s script) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripts[key] = s
}

// requests is how many there were with each key.
func (w *wire) requests() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.seen)
}

// closesUnheard reports whether the script for a key ends the connection before the
// first byte of a reply.
func (w *wire) closesUnheard(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.scripts[key]
	return len(s.reply) == 0 && s.second == nil && s.end != stalls
}

func (w *wire) serve(tcp *net.TCPConn, cert *tls.Certificate) {
	defer tcp.Close()
	conn := net.Conn(tcp)
	if cert != nil {
		conn = tls.Server(tcp, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if strings.HasSuffix(req.URL.Path, "token") {
			token := fmt.Sprintf(`{"access_token":"%s","expires_in":7200}`, wireToken)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(token), token)
			continue
		}
		if !w.play(tcp, conn, in, w.scriptFor(req)) {
			return
		}
	}
}

func (w *wire) scriptFor(req *http.Request) script {
	key := req.URL.Query().Get("media_id")
	if req.Method == http.MethodPost {
		key = req.UserAgent()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[key]++
	return w.scripts[key]
}

// play puts a reply on the wire and reports whether the connection goes on.
func (w *wire) play(tcp *net.TCPConn, conn net.Conn, in *bufio.Reader, s script) bool {
	if _, err := conn.Write(s.reply); err != nil {
		return false
	}
	if s.second != nil {
		time.Sleep(s.pause)
		_, _ = conn.Write(s.second)
	}
	switch s.end {
	case stays:
		return true
	case resets:
		_ = tcp.SetLinger(0)
	case stalls:
		gone := make(chan struct{})
		go func() {
			_, _ = in.Peek(1)
			close(gone)
		}()
		select {
		case <-gone:
		case <-w.done:
			tcp.Close()
			<-gone
		}
	}
	return false
}

// The ways in which a reply's body says how long it is.
const (
	byLength  = "Content-Length"
	byChunks  = "chunked"
	byClosing = "until it closes"
)

// pictureReply is a reply with media, as it goes over the wire.
func pictureReply(framing string, body []byte) (head, wireBody []byte) {
	return replyOf("Content-Type: image/jpeg\r\nContent-disposition: attachment; filename=\"a.jpg\"\r\n", framing, body)
}

// jsonReply is a reply with JSON, as WeChat labels it.
func jsonReply(framing string, body []byte) (head, wireBody []byte) {
	return replyOf("Content-Type: application/json; encoding=utf-8\r\n", framing, body)
}

func replyOf(fields, framing string, body []byte) (head, wireBody []byte) {
	h := "HTTP/1.1 200 OK\r\n" + fields
	switch framing {
	case byLength:
		h += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		wireBody = body
	case byChunks:
		h += "Transfer-Encoding: chunked\r\n"
		wireBody = inChunks(body, 30_000)
	case byClosing:
		wireBody = body
	}
	return []byte(h + "Connection: close\r\n\r\n"), wireBody
}

func inChunks(body []byte, size int) (out []byte) {
	for len(body) > 0 {
		n := min(size, len(body))
		out = fmt.Appendf(out, "%x\r\n%s\r\n", n, body[:n])
		body = body[n:]
	}
	return append(out, "0\r\n\r\n"...)
}
