//go:build unix

package wire

// What lies in a socket unread: bytes, or the end of the connection. A goroutine that
// waits for them hears of it a moment later.

import "syscall"

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
