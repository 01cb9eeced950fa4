//go:build unix

package tokensource

// How the token file is opened where opening a pipe waits for somebody to write.

import (
	"os"
	"syscall"
)

const openFlags = os.O_RDONLY | syscall.O_NONBLOCK
