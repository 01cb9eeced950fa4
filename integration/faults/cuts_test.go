package faults

// Replies that end too early, at every kind of place, in every kind of framing.

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
	"github.com/caddy-wechat/caddy-wechat-media/internal/loopback"
)

// place is a number of bytes after which a reply breaks off.
type place struct {
	name string
	n    int
}

// placesIn are the interesting ones in a reply with a large body.
func placesIn(head, body int) []place {
	return []place{
		{"before the status line", 0},
		{"in the status line", 12},
		{"in the headers", head / 2},
		{"before the end of the headers", head - 1},
		{"after the headers", head},
		{"after 1 byte", head + 1},
		{"after 100 bytes", head + 100},
		{"after 16 KiB less 1", head + 16<<10 - 1},
		{"after 16 KiB", head + 16<<10},
		{"after 16 KiB and 1", head + 16<<10 + 1},
		{"in the middle", head + body/2},
		{"before the last byte", head + body - 1},
		{"after the last byte", head + body},
	}
}

// placesInSmall are places all over a small reply.
func placesInSmall(head, body int) (all []place) {
	for n := 0; n <= head+body; n++ {
		if n%20 == 0 || n >= head-1 && n <= head+1 || n > head && n%6 == 0 || n >= head+body-6 {
			all = append(all, place{fmt.Sprintf("after byte %d of %d+%d", n, head, body), n})
		}
	}
	return all
}

// cut is one way for a reply to break off.
type cut struct {
	framing    string
	head, body int // bytes of the whole reply
	place      place
	end        ending
	tls        bool
}

func (c cut) String() string {
	return fmt.Sprintf("%s, TLS %t, %s %s", c.framing, c.tls, c.end, c.place.name)
}

// allowed says which outcomes a caller may have.
func (c cut) allowed(proto, method string) []outcome {
	inHead, whole := c.place.n < c.head, c.place.n == c.head+c.body
	switch {
	case inHead:
		return []outcome{honest}
	case c.end == resets && (whole || method == http.MethodHead): // what was under way may be lost, or not
		return []outcome{right, honest, broken, undecided}
	case c.end != resets && (method == http.MethodHead || whole && (c.end == closes || c.framing != byClosing)):
		return []outcome{right}
	case c.undecidable(proto):
		return []outcome{right, honest, broken, undecided}
	case c.end == resets:
		return []outcome{honest, broken}
	}
	return []outcome{broken}
}

// undecided is what looks complete, and nobody can know better; see undecidable.
const undecided outcome = "undecided"

// undecidable reports whether nobody can tell that the reply is not whole: not the
// gateway, of a reply that lasts until its connection closes (Go takes the end of a
// TLS record for an end in good order), nor a caller who knows HTTP/1.0 only, of any
// reply without Content-Length. WeChat's replies have one.
func (c cut) undecidable(proto string) bool {
	return c.framing == byClosing && c.end == closes || c.framing != byLength && proto == "HTTP/1.0"
}

// rehearsal is a gateway before a wire.
type rehearsal struct {
	w   *wire
	g   *server
	tls bool
}

// rehearsals are one without and one with TLS to WeChat.
func rehearsals(t *testing.T) []rehearsal {
	certFile, keyFile := loopback.MakeCert(t, t.TempDir())
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	plain, secure := startWire(t, nil), startWire(t, &cert)
	trusting := strings.TrimSuffix(quick, "}") + "tls_trust_pool file " + certFile + "\n}"
	return []rehearsal{
		{plain, startGateway(t, plain.url, quick), false},
		{secure, startGateway(t, secure.url, trusting), true},
	}
}

// piece is what a wire replies with, and how callers ask for it.
type piece struct {
	want   []byte
	reply  func(framing string, body []byte) (head, wireBody []byte)
	places func(head, body int) []place
	calls  []call
}

type call struct {
	method string
	make   func(r rehearsal, from caller, key string) answer
}

// breakOff lets a piece break off in every way, and every caller judge it.
func (p piece) breakOff(t *testing.T, from []caller) []rehearsal {
	var mu sync.Mutex
	count := make(map[outcome]int)
	var calls sync.WaitGroup
	atOnce := make(chan struct{}, 256)
	all := rehearsals(t)
	for key, c := range p.cuts(all) {
		r := all[0]
		if c.tls {
			r = all[1]
		}
		for _, from := range from {
			for _, call := range p.calls {
				atOnce <- struct{}{}
				calls.Go(func() {
					defer func() { <-atOnce }()
					a := call.make(r, from, key)
					got := judge(a, call.method, p.want)
					if got == wrong && c.undecidable(from.proto) && a.status == http.StatusOK && bytes.HasPrefix(p.want, a.body) {
						got = undecided
					}
					mu.Lock()
					count[got]++
					mu.Unlock()
					late := got == honest && a.status == http.StatusGatewayTimeout // the machine has other work
					if allowed := c.allowed(from.proto, call.method); !slices.Contains(allowed, got) && !late {
						t.Errorf("%s %s; %v: got %s, not one of %s: %v", from.proto, call.method, c, got, allowed, a)
					}
				})
			}
		}
	}
	calls.Wait()
	t.Log(count)
	return all
}

// cuts puts every way to break off on the wires, under a key of its own.
func (p piece) cuts(all []rehearsal) map[string]cut {
	cuts := make(map[string]cut)
	for _, r := range all {
		for _, framing := range []string{byLength, byChunks, byClosing} {
			head, body := p.reply(framing, p.want)
			whole := slices.Concat(head, body)
			for _, at := range p.places(len(head), len(body)) {
				for _, end := range []ending{closes, resets, stalls} {
					key := fmt.Sprintf("cut-%d", len(cuts))
					cuts[key] = cut{framing: framing, head: len(head), body: len(body), place: at, end: end, tls: r.tls}
					r.w.on(key, script{reply: whole[:at.n], end: end})
				}
			}
		}
	}
	return cuts
}

func download(method string) call {
	return call{method, func(r rehearsal, from caller, key string) answer { return from.get(r.g, method, "/media/"+key) }}
}

// A download that breaks off is never taken for a whole one: not by a caller of
// any version of HTTP, wherever and however it breaks off, and whatever frames it.
func TestDownloadsThatBreakOff(t *testing.T) {
	t.Parallel()
	piece{
		want: gateway.Picture(100_000), reply: pictureReply, places: placesIn,
		calls: []call{download(http.MethodGet), download(http.MethodHead)},
	}.breakOff(t, callers(t))
}

// Neither is an error, which the gateway looks into.
func TestErrorsThatBreakOff(t *testing.T) {
	t.Parallel()
	piece{
		want:  []byte(`{"errcode":40007,"errmsg":"invalid media_id rid: 0123abcd-0123abcd-0123abcd"}`),
		reply: jsonReply, places: placesInSmall, calls: []call{download(http.MethodGet)},
	}.breakOff(t, callers(t))
}

// A rejection of the token that breaks off is not acted upon.
func TestRejectionsThatBreakOff(t *testing.T) {
	t.Parallel()
	rejection := []byte(`{"errcode":40001,"errmsg":"invalid credential, access_token is invalid or not latest rid: 0123abcd-0123abcd-0123abcd"}`)
	for _, r := range (piece{
		want: rejection, reply: jsonReply, calls: []call{download(http.MethodGet)},
		places: func(head, body int) (cutShort []place) {
			for _, at := range placesInSmall(head, body) {
				if at.n < head+len(rejection)-1 {
					cutShort = append(cutShort, at)
				}
			}
			return cutShort
		},
	}).breakOff(t, callers(t)) {
		if n := r.g.metric(t, "caddy_wechat_token_fetches_total"); n != 1 {
			t.Errorf("%v tokens were fetched", n)
		}
	}
}

// Nor is the reply to an upload; and an upload is not sent again once a byte of the
// reply has come. Before that it is, once, if its connection may have died while it
// waited for use.
func TestUploadRepliesThatBreakOff(t *testing.T) {
	t.Parallel()
	upload := func(known bool) call {
		return call{http.MethodPost, func(r rehearsal, from caller, key string) answer {
			contentType, body := form(gateway.Picture(1000))
			return from.upload(r.g, contentType, body, known, key)
		}}
	}
	p := piece{
		want:  []byte(`{"type":"image","media_id":"abcdefghijklmnopqrstuvwxyz-0123456789_ABCDEFGHIJKLMNOPQRSTUVWXYZ","created_at":1767225600}`),
		reply: jsonReply, places: placesInSmall, calls: []call{upload(true), upload(false)},
	}
	from := callers(t)[:2] // HTTP/1.0 is no different here
	for _, r := range p.breakOff(t, from) {
		for key, n := range r.w.requests() {
			least := len(from) * len(p.calls)
			most := least
			if r.w.closesUnheard(key) {
				most *= 2
			}
			if n < least || n > most {
				t.Errorf("%s: %d uploads became %d", key, least, n)
			}
		}
	}
}
