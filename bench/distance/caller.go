package main

// The callers, and the proof that the distance is what it should be.

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	direct = "direct" // the contender that is none: a caller that talks to WeChat itself
	size   = 32 << 10
	token  = "bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-bench-token-0123"
)

var form = "--b\r\nContent-Disposition: form-data; name=\"media\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n" +
	strings.Repeat("x", size) + "\r\n--b--\r\n"

var roots = x509.NewCertPool()

func loadCA(file string) error {
	pem, err := os.ReadFile(file)
	if err == nil && !roots.AppendCertsFromPEM(pem) {
		err = errors.New("no certificate in " + file)
	}
	return err
}

// group is callers of one URL.
type group struct {
	url     string
	callers []*caller
}

// caller has a connection of its own, which is never kept for longer than WeChat keeps it.
type caller struct {
	download, upload string
	transport        http.RoundTripper
}

func newGroup(url string, callers int) *group {
	g := &group{url: url}
	for range callers {
		g.callers = append(g.callers, newCaller(url))
	}
	return g
}

func newCaller(url string) *caller {
	c := &caller{download: url + "/media-32768", upload: url}
	idle := time.Hour
	if strings.HasPrefix(url, "https:") {
		c.download = url + "/cgi-bin/media/get?media_id=media-32768&access_token=" + token
		c.upload = url + "/cgi-bin/media/upload?type=image&access_token=" + token
		idle = 15 * time.Second
	}
	c.transport = &http.Transport{DisableCompression: true, IdleConnTimeout: idle, TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: "api.weixin.qq.com", ClientSessionCache: tls.NewLRUClientSessionCache(0)}}
	return c
}

// call is one download or upload, whose answer has to be right.
func (c *caller) call(upload bool) error {
	req, err := http.NewRequest(http.MethodGet, c.download, nil)
	if upload {
		req, err = http.NewRequest(http.MethodPost, c.upload, strings.NewReader(form))
		if err == nil {
			req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		}
	}
	if err != nil {
		return err
	}
	res, err := c.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK,
		upload && !strings.Contains(string(body), fmt.Sprintf(`"media_id":"%d"`, len(form))), !upload && len(body) != size:
		return fmt.Errorf("%s, %d bytes: %.100q", res.Status, len(body), body)
	}
	return nil
}

// prove fails unless a first request costs three round trips, one for TCP, one for TLS
// and one for itself, and a second one costs one.
func prove(rtt time.Duration) error {
	c := newCaller("https://127.0.0.1:20451")
	for i, trips := range []float64{3, 1, 1} {
		begin := time.Now()
		if err := c.call(false); err != nil {
			return err
		}
		took := float64(time.Since(begin)) / float64(rtt)
		if took < trips || took > trips+0.5 {
			return fmt.Errorf("request %d took %.2f round trips and not %v", i+1, took, trips)
		}
	}
	return nil
}
