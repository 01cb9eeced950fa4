package gateway

import (
	"net/http"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// A site is up, over HTTP and TLS, when Start returns, and gone after Stop.
func TestSite(t *testing.T) {
	s := Site{Options: "sdk_tokens"}.Start(t)
	get := func() (int, error) {
		res, err := http.Get(s.HTTP + "/media/none")
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	if status, err := get(); status != http.StatusOK {
		t.Errorf("status %d, %v", status, err)
	}
	s.Stop()
	if status, err := get(); err == nil {
		t.Errorf("status %d after the end", status)
	}
}
