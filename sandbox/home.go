package sandbox

// Who may control the sandbox: people and scripts on its own machine. A web page that
// is open there can send requests to it as well, to an address of this machine or, when
// its name resolves to one, to itself.

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// notAtHome returns why a request may not control the sandbox; empty: it may.
func notAtHome(r *http.Request) string {
	remote, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(remote) {
		return "the caller is elsewhere"
	}
	if r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != "" {
		return "it comes through a proxy"
	}
	if !isLoopback(hostname(r.Host)) {
		return "the host in the URL is none of this machine's own names; write localhost"
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return "it comes from another site"
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
			return "it comes from another origin"
		}
	}
	return ""
}

// hostname is a Host without its port and brackets.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
