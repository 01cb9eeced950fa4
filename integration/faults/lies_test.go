package faults

// Replies that lie about themselves, and bytes that nobody asked for.

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

// A reply whose framing makes no sense is an error, or ends in one; nobody gets
// wrong bytes that look complete.
func TestRepliesThatMakeNoSense(t *testing.T) {
	content := gateway.Picture(50_000)
	reply := func(fields string, body []byte) []byte {
		return slices.Concat([]byte("HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Disposition: attachment\r\n"+fields+"\r\n"), body)
	}
	chunked := func(chunks ...string) []byte {
		return reply("Transfer-Encoding: chunked\r\n", []byte(strings.Join(chunks, "")))
	}
	half := string(content[:25_000])
	first := fmt.Sprintf("%x\r\n%s\r\n", len(half), half)
	for name, tc := range map[string]struct {
		wire []byte
		want []outcome // of a GET
	}{
		"no HTTP":                         {[]byte("SSH-2.0-OpenSSH_9.2\r\n"), []outcome{honest}},
		"HTTP/0.9":                        {content, []outcome{honest}},
		"no status code":                  {[]byte("HTTP/1.1 OK\r\n\r\n"), []outcome{honest}},
		"a header without a colon":        {reply("Content-Length 50000\r\n", content), []outcome{honest}},
		"headers without end":             {reply(strings.Repeat("X-Filler: "+strings.Repeat("f", 1000)+"\r\n", 12_000), nil), []outcome{honest}},
		"nothing but 100 Continue":        {bytes.Repeat([]byte("HTTP/1.1 100 Continue\r\n\r\n"), 50), []outcome{honest}},
		"Content-Length is no number":     {reply("Content-Length: many\r\n", content), []outcome{honest}},
		"Content-Length is negative":      {reply("Content-Length: -1\r\n", content), []outcome{honest}},
		"Content-Length with a sign":      {reply("Content-Length: +50000\r\n", content), []outcome{honest}},
		"Content-Length is too large":     {reply("Content-Length: 50001\r\n", content), []outcome{broken}},
		"Content-Length is far too large": {reply("Content-Length: 9223372036854775807\r\n", content), []outcome{broken}},
		"two different Content-Lengths":   {reply("Content-Length: 50000\r\nContent-Length: 100\r\n", content), []outcome{honest}},
		"the same Content-Length twice":   {reply("Content-Length: 50000\r\nContent-Length: 50000\r\n", content), []outcome{right, honest}},
		"an unknown Transfer-Encoding":    {reply("Transfer-Encoding: gzip, chunked\r\n", content), []outcome{honest}},
		"a chunk size that is no number":  {chunked(first, "zz\r\n", half, "\r\n0\r\n\r\n"), []outcome{broken}},
		"a chunk size that is negative":   {chunked(first, "-1\r\n", half, "\r\n0\r\n\r\n"), []outcome{broken}},
		"a chunk size beyond 64 bits":     {chunked(first, "fffffffffffffffff\r\n", half, "\r\n0\r\n\r\n"), []outcome{broken}},
		"a chunk size without end":        {chunked(first, strings.Repeat("0", 100_000)), []outcome{broken}},
		"a chunk that is too short":       {chunked(first, "61a9\r\n", half, "\r\n0\r\n\r\n"), []outcome{broken}},
		"a chunk that is too long":        {chunked(first, "61a7\r\n", half, "\r\n0\r\n\r\n"), []outcome{broken}},
		"no last chunk":                   {chunked(first), []outcome{broken}},
		"no end after the last chunk":     {chunked(first, "0\r\n"), []outcome{broken}},
		"trailers without end":            {chunked(first, "0\r\nX-Trailer: ", strings.Repeat("t", 100_000)), []outcome{broken}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startWire(t, nil)
			w.on("lie", script{reply: tc.wire, end: closes})
			g := startGateway(t, w.url)
			for _, from := range callers(t)[:2] {
				a := from.get(g, http.MethodGet, "/media/lie")
				if got := judge(a, http.MethodGet, content); !slices.Contains(tc.want, got) {
					t.Errorf("%s: got %s, not one of %s: %v", from.proto, got, tc.want, a)
				}
				if a := from.get(g, http.MethodHead, "/media/lie"); judge(a, http.MethodHead, nil) == wrong {
					t.Errorf("%s HEAD: %v", from.proto, a)
				}
			}
		})
	}
}

// A reply is as long as it says, and not a byte that comes after it gets to
// anybody: least of all to the next caller on the same connection. (A whole further
// reply, sent without being asked for, could get there over HTTP/1.1, but not where
// WeChat's downloads close the connection.)
func TestSurplusReachesNobody(t *testing.T) {
	content, surplus := gateway.Picture(20_000), gateway.Picture(100)
	further := []byte("HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Disposition: attachment\r\nContent-Length: 9\r\n\r\nNOT YOURS")
	closing := func(framing string) []byte {
		head, body := pictureReply(framing, content)
		return slices.Concat(head, body)
	}
	kept := func(framing string) []byte {
		return bytes.Replace(closing(framing), []byte("Connection: close\r\n"), nil, 1)
	}
	w := startWire(t, nil)
	scripts := map[string]script{
		"none":                     {reply: kept(byLength), end: stays},
		"Content-Length, at once":  {reply: append(kept(byLength), surplus...), end: stays},
		"Content-Length, later":    {reply: kept(byLength), second: surplus, pause: time.Millisecond, end: stays},
		"chunked, at once":         {reply: append(kept(byChunks), surplus...), end: stays},
		"chunked, later":           {reply: kept(byChunks), second: surplus, pause: time.Millisecond, end: stays},
		"a further reply, at once": {reply: append(closing(byLength), further...), end: stays},
		"a further reply, later":   {reply: closing(byLength), second: further, pause: time.Millisecond, end: stays},
	}
	names := slices.Sorted(maps.Keys(scripts))
	for i, name := range names {
		w.on(fmt.Sprint("surplus-", i), scripts[name])
	}
	g := startGateway(t, w.url)

	from := callers(t)
	var calls sync.WaitGroup
	for i := range 32 {
		calls.Go(func() {
			c := from[i%2]
			for j := range 70 {
				n := (i + j) % len(names)
				method := []string{http.MethodGet, http.MethodGet, http.MethodHead}[j%3] // a liar's HEAD has a body
				a := c.get(g, method, fmt.Sprint("/media/surplus-", n))
				// an error is of a caller whose connection somebody else's surplus came in on
				if got := judge(a, method, content); got != right && got != honest {
					t.Errorf("%s %s, surplus %s: %s: %v", c.proto, method, names[n], got, a)
				}
			}
		})
	}
	calls.Wait()
}
