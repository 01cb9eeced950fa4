package main

// The load: an upstream and callers, one of which is slow.

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is what all transfers of a scenario have in common.
type load struct {
	upload, chunked           bool
	tls, http2                bool // of the callers; WeChat's side always has TLS and HTTP/1.1
	slowUpstream, slowCallers bool
}

// paced is a reader that brings so many bytes a second and no more.
type paced struct {
	io.Reader
	rate  int
	start time.Time
	n     int
}

func (p *paced) Read(b []byte) (int, error) {
	if p.start.IsZero() {
		p.start = time.Now()
	}
	due := p.start.Add(time.Duration(p.n) * time.Second / time.Duration(p.rate))
	time.Sleep(time.Until(due))
	n, err := p.Reader.Read(b[:min(len(b), p.rate/20)])
	p.n += n
	return n, err
}

func slowly(r io.Reader, slow bool) io.Reader {
	if !slow {
		return r
	}
	return &paced{Reader: r, rate: pace}
}

// startUpstream runs an upstream that has any media_id, of as many bytes as the
// media_id says, and keeps nothing.
func startUpstream(l load) *httptest.Server {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "token"):
			fmt.Fprintf(rw, `{"access_token":"%s","expires_in":7200}`, strings.Repeat("t", 100))
		case r.Method == http.MethodPost:
			n, err := io.Copy(io.Discard, slowly(r.Body, l.slowUpstream))
			if err == nil {
				fmt.Fprintf(rw, `{"type":"image","media_id":"%d"}`, n)
			}
		default:
			size := r.URL.Query().Get("media_id")
			n, _ := strconv.ParseInt(size, 10, 64)
			rw.Header().Set("Content-Disposition", "attachment")
			rw.Header().Set("Content-Length", size)
			_, _ = io.Copy(rw, slowly(io.LimitReader(zeros{}, n), l.slowUpstream))
		}
	}))
	up.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that the gateway opens and does not need
	up.StartTLS()
	return up
}

// run makes the transfers and counts their answers.
func (l load) run(g *gateway, transfers int, size int64) (string, error) {
	answers := make([]string, transfers)
	var calls sync.WaitGroup
	for i := range answers {
		calls.Go(func() { answers[i] = l.call(g, size) })
	}
	calls.Wait()
	slices.Sort(answers)
	var counted []string
	for _, answer := range slices.Compact(slices.Clone(answers)) {
		n := 0
		for _, a := range answers {
			if a == answer {
				n++
			}
		}
		if answer != "200" && answer != "503" || answer == "503" && !l.chunked {
			return "", fmt.Errorf("%d transfers ended with %s", n, answer)
		}
		counted = append(counted, fmt.Sprintf("%d × %s", n, answer))
	}
	return strings.Join(counted, ", "), nil
}

// call makes one transfer, over a connection of its own, and returns the status of
// an answer that is right, and otherwise what is wrong with it.
func (l load) call(g *gateway, size int64) string {
	tr := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: l.http2,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},                  // the certificate is made for the measurement
		HTTP2:           &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}, // or no caller would be slow
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequest(http.MethodGet, g.url+"/media/"+strconv.FormatInt(size, 10), nil)
	if l.upload {
		req, err = http.NewRequest(http.MethodPost, g.url+"/media", io.LimitReader(zeros{}, size))
		if err == nil {
			req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			req.ContentLength = size
		}
		if err == nil && l.chunked {
			req.ContentLength = -1
		}
	}
	if err != nil {
		return err.Error()
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	if (res.ProtoMajor == 2) != l.http2 {
		return res.Proto
	}
	var reply bytes.Buffer
	n, err := io.Copy(&limitedBuffer{&reply}, slowly(res.Body, l.slowCallers))
	switch {
	case err != nil:
		return err.Error()
	case res.StatusCode == http.StatusOK && l.upload && !strings.Contains(reply.String(), strconv.FormatInt(size, 10)):
		return "another size: " + reply.String()
	case res.StatusCode == http.StatusOK && !l.upload && n != size:
		return fmt.Sprintf("%d bytes", n)
	}
	return strconv.Itoa(res.StatusCode)
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := 1000 - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// zeros is no end of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func marshalKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
