//go:build !unix

package wire

import (
	"net"
	"syscall"
)

// quiet reports whether nothing has arrived on conn, as far as can be known.
func quiet(syscall.Conn) bool { return true }

// socket is nothing here.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (*socket) readNow([]byte) (int, error) { return 0, errNotNow }
