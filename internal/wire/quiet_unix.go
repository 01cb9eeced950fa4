//go:build unix

package wire

// What lies in a socket unread: bytes, or the end of the connection. A goroutine that
// waits for them hears of it a moment later.

import (
	"io"
	"net"
	"syscall"
)

// quiet reports whether nothing has arrived on conn.
func quiet(conn syscall.Conn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	nothing := false
	err = raw.Read(func(fd uintptr) bool {
		var p [1]byte
		_, _, err := syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK)
		nothing = err == syscall.EAGAIN
		return true
	})
	return nothing && err == nil
}

// socket reads what has arrived on a connection. One goroutine reads at a time.
type socket struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // made once, as it would be an allocation
	p    []byte
	n    int
	err  error
}

// newSocket returns the socket that conn runs on in the end, or nil.
func newSocket(conn net.Conn) *socket {
	c := socketOf(conn)
	if _, secure := conn.(*tlsConn); secure || c == nil {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.read = func(fd uintptr) bool {
		s.err = syscall.EINTR
		for s.err == syscall.EINTR {
			s.n, s.err = syscall.Read(int(fd), s.p)
		}
		return true
	}
	return s
}

// readNow reads without waiting; errNotNow says that nothing has arrived.
func (s *socket) readNow(p []byte) (int, error) {
	s.p = p
	err := s.raw.Read(s.read)
	s.p = nil
	switch {
	case err != nil:
		return 0, err
	case s.err == syscall.EAGAIN:
		return 0, errNotNow
	case s.err != nil:
		return 0, s.err
	case s.n == 0:
		return 0, io.EOF
	}
	return s.n, nil
}
