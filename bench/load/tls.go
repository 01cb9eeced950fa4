package load

// A caller without a gateway, who has a token and speaks TLS to the upstream.

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/caddy-wechat/caddy-wechat-media/bench/upstream"
)

type direct struct {
	o       Options
	conn    *tls.Conn
	request []byte
	buf     [maxHead + 32<<10]byte
}

func tlsConfig(o Options) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(o.CA))
	return &tls.Config{RootCAs: roots, ServerName: upstream.ServerName, DynamicRecordSizingDisabled: true}
}

func dialTLS(o Options) (*direct, error) {
	request, addr, err := requestBytes(o)
	if err != nil {
		return nil, err
	}
	conn, err := tls.Dial("tcp", addr, tlsConfig(o))
	if err != nil {
		return nil, err
	}
	return &direct{o: o, conn: conn, request: request}, nil
}

func (d *direct) Close() error { return d.conn.Close() }

// Do implements exchange.
func (d *direct) Do() error {
	if _, err := d.conn.Write(d.request); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	n, begins, length := 0, 0, 0
	for begins == 0 || d.o.Method == "POST" && n < begins+length {
		m, err := d.conn.Read(d.buf[n:])
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		n += m
		if begins, length, err = replyHead(d.buf[:n]); err != nil {
			return err
		}
	}
	if err := checkReply(d.o, length, d.buf[begins:n]); err != nil {
		return err
	}
	for left := length - (n - begins); left > 0; {
		n, err := d.conn.Read(d.buf[:min(left, len(d.buf))])
		if err != nil {
			return fmt.Errorf("receiving: %w: %w", errShort, err)
		}
		left -= n
	}
	return nil
}
