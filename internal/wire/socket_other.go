//go:build !darwin && !linux && !openbsd

package wire

import "net"

// socket is nothing here.
type socket struct{}

func newSocket(net.Conn) *socket { return nil }

func (*socket) read([]byte, bool, bool) (int, *room, error) { return 0, nil, errNotNow }
