package load

// A caller of a gateway, over plain HTTP. The kernel sends uploads from memory of
// its own and throws downloads away, so that callers take little CPU from what is
// measured: they share a core with the upstream.

import (
	"fmt"
	"io"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

type plain struct {
	o    Options
	conn *net.TCPConn
	raw  syscall.RawConn

	request []byte // a download's
	file    int    // an upload's, with its head
	length  int64

	buf [maxHead]byte

	// what send and discard are at; they are made once
	sent    int64
	left    int
	err     error
	send    func(fd uintptr) bool
	discard func(fd uintptr) bool
}

func dialPlain(o Options) (*plain, error) {
	request, addr, err := requestBytes(o)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &plain{o: o, conn: conn.(*net.TCPConn), request: request, file: -1, length: int64(len(request))}
	if p.raw, err = p.conn.SyscallConn(); err != nil {
		return nil, err
	}
	if o.Method == "POST" {
		p.request = nil
		if p.file, err = sharedFile(request); err != nil {
			return nil, err
		}
	}
	p.send, p.discard = p.sendSome, p.discardSome
	return p, nil
}

func (p *plain) Close() error { return p.conn.Close() }

// Do implements exchange.
func (p *plain) Do() error {
	if err := p.ask(); err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	for n := 0; ; {
		m, err := p.conn.Read(p.buf[n:])
		if err != nil {
			return fmt.Errorf("receiving: %w", err)
		}
		n += m
		begins, length, err := replyHead(p.buf[:n])
		if err != nil {
			return err
		}
		if begins == 0 || p.o.Method == "POST" && n < begins+length {
			continue
		}
		if err := checkReply(p.o, length, p.buf[begins:n]); err != nil {
			return err
		}
		return p.drop(length - (n - begins))
	}
}

func (p *plain) ask() error {
	if p.file < 0 {
		_, err := p.conn.Write(p.request)
		return err
	}
	p.sent, p.err = 0, nil
	if err := p.raw.Write(p.send); err != nil {
		return err
	}
	return p.err
}

// sendSome reports whether the file has been sent.
func (p *plain) sendSome(fd uintptr) bool {
	for p.sent < p.length {
		_, err := unix.Sendfile(int(fd), p.file, &p.sent, int(p.length-p.sent))
		switch err {
		case nil, unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			p.err = err
			return true
		}
	}
	return true
}

// drop takes the rest of the reply from the connection, which must have no more.
func (p *plain) drop(n int) error {
	if n < 0 {
		return fmt.Errorf("the reply is %d bytes longer than it says", -n)
	}
	p.left, p.err = n, nil
	if err := p.raw.Read(p.discard); err != nil {
		return err
	}
	return p.err
}

// discardSome reports whether the reply has come to its end. With MSG_TRUNC, TCP
// skips bytes instead of copying them.
func (p *plain) discardSome(fd uintptr) bool {
	for p.left > 0 {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, fd, 0, uintptr(p.left), unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EAGAIN:
			return false
		case errno == unix.EINTR:
		case errno != 0:
			p.err = errno
			return true
		case n == 0:
			p.err = fmt.Errorf("%w: %d bytes, %w", errShort, p.left, io.ErrUnexpectedEOF)
			return true
		default:
			p.left -= int(n)
		}
	}
	return true
}
