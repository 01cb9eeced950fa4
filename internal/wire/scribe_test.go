package wire

// A TLS 1.3 server that writes records by its own hand, so that a test can say what
// comes behind what, and how much of it.

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	recordAlert           = 21
	recordHandshake       = 22
	recordApplicationData = 23

	keyUpdate = 24 // a message of the handshake
)

// newSessionTicket is a message with a ticket of two hours.
var newSessionTicket = func() []byte {
	body := []byte{0, 0, 0x1c, 0x20, 1, 2, 3, 4, 1, 0} // lifetime, age, nonce
	body = append(body, 0, 100)
	body = append(body, bytes.Repeat([]byte("t"), 100)...)
	body = append(body, 0, 0)
	return append([]byte{4, 0, 0, byte(len(body))}, body...)
}()

// scribe is the server once hands are shaken.
type scribe struct {
	*wireConn
	t      testing.TB
	suite  uint16
	secret []byte
	sealed uint64 // records, with this secret

	sessions tls.ClientSessionCache // the client's
}

func connectedToScribe(t testing.TB) (*tlsConn, *scribe) {
	t.Helper()
	serverConfig, clientConfig := serverTLS(t)
	serverConfig.SessionTicketsDisabled = true // they would be sealed with the same secret
	clientConfig.ServerName = "wechat.test"
	clientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	var keyLog bytes.Buffer
	serverConfig.KeyLogWriter = &keyLog
	client, wire := newWire()
	server := tls.Server(wire, serverConfig)
	c := newTLSConn(client, clientConfig)
	handshake := make(chan error)
	go func() { handshake <- server.Handshake() }()
	if err := errors.Join(c.Handshake(), <-handshake); err != nil {
		t.Fatal(err)
	}
	c.records.shaken = true
	_, line, _ := strings.Cut(keyLog.String(), "SERVER_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	return c, &scribe{wireConn: wire, t: t, suite: server.ConnectionState().CipherSuite, secret: secret, sessions: clientConfig.ClientSessionCache}
}

// seal makes a record.
func (s *scribe) seal(kind byte, data []byte) []byte {
	s.t.Helper()
	var aead cipher.AEAD
	var err error
	switch s.suite {
	case tls.TLS_AES_128_GCM_SHA256:
		var block cipher.Block
		if block, err = aes.NewCipher(s.expand("key", 16)); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		aead, err = chacha20poly1305.New(s.expand("key", 32))
	default:
		s.t.Fatalf("cipher suite %s", tls.CipherSuiteName(s.suite))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	nonce := s.expand("iv", 12)
	sequence := binary.BigEndian.AppendUint64(nil, s.sealed)
	s.sealed++
	for i, b := range sequence {
		nonce[4+i] ^= b
	}
	header := []byte{recordApplicationData, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(header[3:], uint16(len(data)+1+aead.Overhead()))
	return aead.Seal(header, nonce, append(bytes.Clone(data), kind), header)
}

// updateKey is for after a KeyUpdate.
func (s *scribe) updateKey() {
	s.secret = s.expand("traffic upd", sha256.Size)
	s.sealed = 0
}

func (s *scribe) expand(label string, length int) []byte {
	s.t.Helper()
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(append(info, byte(len(label))), label...)
	key, err := hkdf.Expand(sha256.New, s.secret, string(append(info, 0)), length)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// send puts bytes on the wire together.
func (s *scribe) send(pieces ...[]byte) {
	s.t.Helper()
	if _, err := s.Write(bytes.Join(pieces, nil)); err != nil {
		s.t.Fatal(err)
	}
}

// stuff has the client's writes wait.
func (s *scribe) stuff() {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.full = true
}
