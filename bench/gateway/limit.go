package main

// The least that a gateway in Caddy can do: one http.Transport, one copy loop, a
// fixed token. It keeps no promise of the plugin's, and shows what they cost.

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(limit))
	httpcaddyfile.RegisterHandlerDirective("bench_limit", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		l := new(limit)
		return l, l.UnmarshalCaddyfile(h.Dispenser)
	})
	httpcaddyfile.RegisterDirectiveOrder("bench_limit", httpcaddyfile.Before, "reverse_proxy")
}

// limit answers `GET …/<media_id>` and `POST` from WeChat.
type limit struct {
	Upstream   string `json:"upstream"`    // host:port
	ServerName string `json:"server_name"` // in its certificate
	CA         string `json:"ca"`          // the file with the certificate's issuer
	TokenFile  string `json:"token_file"`  // read once

	transport *http.Transport
	token     string
}

// CaddyModule returns the Caddy module information.
func (*limit) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.bench_limit", New: func() caddy.Module { return new(limit) }}
}

// Provision sets up l.
func (l *limit) Provision(caddy.Context) error {
	pem, err := os.ReadFile(l.CA)
	if err != nil {
		return fmt.Errorf("reading CA: %w", err)
	}
	token, err := os.ReadFile(l.TokenFile)
	if err != nil {
		return fmt.Errorf("reading token: %w", err)
	}
	l.token = url.QueryEscape(strings.TrimSpace(string(token)))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	l.transport = &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: roots, ServerName: l.ServerName},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 1024,
		ReadBufferSize:      copySize,
		WriteBufferSize:     copySize,
	}
	return nil
}

// Cleanup closes what is idle.
func (l *limit) Cleanup() error {
	if l.transport != nil {
		l.transport.CloseIdleConnections()
	}
	return nil
}

const copySize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

func (l *limit) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	target := url.URL{Scheme: "https", Host: l.Upstream, Path: "/cgi-bin/media/upload", RawQuery: "access_token=" + l.token + "&type=image"}
	if r.Method == http.MethodGet {
		target.Path = "/cgi-bin/media/get"
		target.RawQuery = "access_token=" + l.token + "&media_id=" + path.Base(r.URL.Path)
	}
	out := (&http.Request{
		Method: r.Method, URL: &target, Header: http.Header{},
		ContentLength: r.ContentLength, Body: r.Body,
	}).WithContext(r.Context())
	if r.Method == http.MethodGet {
		out.Body = nil
	} else {
		out.Header["Content-Type"] = r.Header["Content-Type"]
	}
	res, err := l.transport.RoundTrip(out)
	if err != nil {
		return caddyhttp.Error(http.StatusBadGateway, err)
	}
	defer res.Body.Close()
	maps.Copy(w.Header(), res.Header)
	w.WriteHeader(res.StatusCode)
	return copyBody(w, res.Body)
}

func copyBody(w io.Writer, r io.Reader) error {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// UnmarshalCaddyfile sets up l from Caddyfile tokens. Syntax:
//
//	bench_limit <upstream> <server_name> <ca_file> <token_file>
func (l *limit) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if !d.AllArgs(&l.Upstream, &l.ServerName, &l.CA, &l.TokenFile) {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*limit)(nil)
	_ caddy.CleanerUpper          = (*limit)(nil)
	_ caddyhttp.MiddlewareHandler = (*limit)(nil)
	_ caddyfile.Unmarshaler       = (*limit)(nil)
)
