// Package upstream plays WeChat over TLS: media of fixed sizes, uploads, tokens
// that can be revoked. Unlike the project's sandbox it is built to be cheaper than
// any gateway in front of it.
package upstream

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// Server is a running upstream.
type Server struct {
	Addr    string // host:port of the TLS side
	Control string // URL of the control side
	CA      string // PEM of the certificate's issuer
	Token   string // a token that is never revoked

	w       *wechat
	config  *tls.Config
	http2   *http.Server
	streams handedOver // connections that speak HTTP/2
}

// Start listens on free ports of the loopback address.
func Start() (*Server, error) {
	certificate, issuer, err := newCertificate()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		Addr: listener.Addr().String(), Control: "http://" + control.Addr().String(),
		CA: string(issuer), Token: "fixed-" + rand.Text() + rand.Text() + rand.Text() + rand.Text(),
		config: &tls.Config{
			Certificates:                []tls.Certificate{certificate},
			NextProtos:                  []string{"h2", "http/1.1"}, // as a modern edge offers
			MinVersion:                  tls.VersionTLS13,           // for all alike
			DynamicRecordSizingDisabled: true,
		},
		streams: handedOver{conns: make(chan net.Conn), addr: listener.Addr()},
	}
	s.w = newWechat(s.Token)
	s.http2 = &http.Server{Handler: s.w}
	go s.http2.Serve(s.streams)
	go http.Serve(control, s.w.control())
	go s.accept(listener)
	return s, nil
}

func (s *Server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go s.serve(conn)
		}
	}
}

func (s *Server) serve(conn net.Conn) {
	records := newRecordsConn(conn)
	c := tls.Server(records, s.config)
	if err := c.Handshake(); err != nil {
		_ = conn.Close()
		return
	}
	s.w.opened.Add(1)
	if c.ConnectionState().NegotiatedProtocol == "h2" {
		s.streams.conns <- c
		return
	}
	defer c.Close()
	_ = (&http1{w: s.w, tls: c, conn: records}).serve() // it always ends with an error, io.EOF in general
}

// handedOver is a listener for connections that somebody else has accepted.
type handedOver struct {
	conns chan net.Conn
	addr  net.Addr
}

func (l handedOver) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l handedOver) Close() error              { return nil }
func (l handedOver) Addr() net.Addr            { return l.addr }
