package load

// Waiting for a gateway that is being started.

import (
	"fmt"
	"net"
	"net/url"
	"time"
)

const startTimeout = 30 * time.Second

// waitForListener returns as soon as somebody listens there.
func waitForListener(rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for gateway: %w", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
