//go:build !unix

package wire

import "syscall"

// quiet reports whether nothing has arrived on conn, as far as can be known.
func quiet(syscall.Conn) bool { return true }
