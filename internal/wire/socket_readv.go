//go:build darwin || linux || openbsd

package wire

// Reading a socket into two places at once.

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket reads what arrives on a connection. One goroutine reads at a time.
type socket struct {
	conn net.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // made once, as it would be an allocation

	// Of the read under way.
	p           []byte
	ahead, wait bool
	room        *room
	n           int
	err         error
}

// newSocket returns the socket that conn runs on in the end, or nil.
func newSocket(conn net.Conn) *socket {
	if _, secure := conn.(*tlsConn); secure {
		return nil
	}
	c := socketOf(conn)
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil // its reads may do more than a socket's
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{conn: conn, raw: raw}
	s.try = func(fd uintptr) bool {
		places := [2][]byte{s.p}
		if s.ahead {
			s.room = newRoom()
		}
		if s.room != nil {
			places[1] = s.room[recordMost:]
		}
		s.err = unix.EINTR
		for s.err == unix.EINTR {
			s.n, s.err = unix.Readv(int(fd), places[:])
		}
		if s.room != nil && s.n <= len(s.p) {
			s.room.free()
			s.room = nil
		}
		return s.err != unix.EAGAIN || !s.wait
	}
	return s
}

// read reads into p, and what has arrived beyond that into a room, if ahead is set and
// there is a room. It waits for a first byte, or says errNotNow.
func (s *socket) read(p []byte, ahead, wait bool) (n int, r *room, err error) {
	s.p, s.ahead, s.wait = p, ahead, wait
	err = s.raw.Read(s.try)
	n, r = s.n, s.room
	s.p, s.room, s.n = nil, nil, 0
	switch {
	case err != nil:
		if op, ok := errors.AsType[*net.OpError](err); ok {
			op.Op = "read" // which is what net.Conn says
		}
		return 0, nil, err
	case s.err == unix.EAGAIN:
		return 0, nil, errNotNow
	case s.err != nil:
		return 0, nil, &net.OpError{Op: "read", Net: s.conn.RemoteAddr().Network(), Source: s.conn.LocalAddr(),
			Addr: s.conn.RemoteAddr(), Err: os.NewSyscallError("read", s.err)}
	case n == 0:
		return 0, nil, io.EOF
	}
	return n, r, nil
}
