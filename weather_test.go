package wechatmedia

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-wechat/caddy-wechat-media/internal/replay"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

// All at once: callers of every kind, some of whom leave, while tokens are
// revoked, WeChat is busy, slow or breaks off, and configs are reloaded. Every
// answer is right or an honest error, and in the end nothing is left behind.
func TestAllWeathers(t *testing.T) {
	w := startWechat(t)
	g := startGateway(t, block(w.URL, "replay_buffer 2MiB"))
	content := picture(t, 200_000)
	contentType, body := form(t, "a.jpg", content)
	res, reply := g.upload("/media", "a.jpg", content)
	id := uploaded(t, res, reply)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // on a machine that is busy
	defer cancel()
	var callers, weather sync.WaitGroup
	var right, honest, left atomic.Int64
	for i := range 24 {
		callers.Go(func() {
			for ctx.Err() == nil {
				switch err := oneCall(ctx, g.URL, i, id, content, contentType, body); {
				case err == nil:
					right.Add(1)
				case errors.Is(err, errHonest):
					honest.Add(1)
				case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
					left.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	every := func(d time.Duration, f func()) {
		weather.Go(func() {
			for tick := time.NewTicker(d); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
					f()
				}
			}
		})
	}
	every(150*time.Millisecond, w.revoke)
	every(90*time.Millisecond, func() { w.Busy(sandbox.MediaGet, 2) })
	every(1700*time.Millisecond, func() { w.Busy(testTokenEndpoint, 1) })
	every(110*time.Millisecond, func() { w.Cut(sandbox.MediaGet, 70_000, 1) })
	every(230*time.Millisecond, func() { w.Cut(sandbox.MediaUpload, 70_000, 1) })
	n := 0
	every(700*time.Millisecond, func() {
		n++
		if err := g.tryLoad(block(w.URL, "replay_buffer 2MiB", fmt.Sprintf("header_up X-Reload %d", n))); err != nil {
			t.Error(err)
		}
	})
	enough := func() bool { return right.Load() >= 10 && honest.Load() > 0 && left.Load() > 0 }
	for begin := time.Now(); ctx.Err() == nil && (time.Since(begin) < 5*time.Second || !enough()); {
		time.Sleep(50 * time.Millisecond)
	}
	cancel()
	callers.Wait()
	weather.Wait()
	t.Logf("%d right, %d honest errors, %d callers left", right.Load(), honest.Load(), left.Load())
	if !enough() {
		t.Errorf("%d right, %d honest errors, %d callers left", right.Load(), honest.Load(), left.Load())
	}

	g.load("respond gone")
	var ours int
	stacks := make([]byte, 4<<20)
	if !eventually(func() bool {
		stacks = stacks[:runtime.Stack(stacks[:cap(stacks)], true)]
		ours = strings.Count(string(stacks), "caddy-wechat-media.(*Transport)") + strings.Count(string(stacks), "caddy-wechat-media/internal/replay.(*Upload") +
			strings.Count(string(stacks), "caddy-wechat-media/token.(*Manager)")
		return ours == 0 && replay.InUse() == 0
	}) {
		t.Fatalf("%d goroutines and %d bytes are left\n%s", ours, replay.InUse(), stacks)
	}
}

var errHonest = errors.New("an honest error")

// oneCall is a request of one of several kinds.
func oneCall(ctx context.Context, gateway string, kind int, id string, content []byte, contentType string, body []byte) error {
	if kind%4 == 3 { // one who leaves
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(8000))*time.Microsecond)
		defer cancel()
	}
	method, target, in := "GET", "/media/"+id, io.Reader(nil)
	switch kind % 3 {
	case 1:
		method, target, in = "POST", "/media", bytes.NewReader(body)
		if kind%2 == 0 { // of unknown length
			in = io.MultiReader(in)
		}
	case 2:
		if kind%2 == 0 {
			method = "HEAD"
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, gateway+target, in)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	res, err := noRedirects.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errHonest // no answer is not a wrong one
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return errHonest // broken off, and seen to be
	}
	var said struct {
		Errcode int
		MediaID string `json:"media_id"`
	}
	if json.Unmarshal(got, &said) == nil && said.Errcode != 0 || method == "HEAD" && res.StatusCode >= 400 {
		return errHonest
	}
	switch {
	case res.StatusCode != 200:
		return fmt.Errorf("%s: status %d: %s", method, res.StatusCode, got)
	case method == "POST" && said.MediaID == "":
		return fmt.Errorf("an upload got %s", got)
	case method == "GET" && !bytes.Equal(got, content):
		return fmt.Errorf("a download of %d bytes looks complete", len(got))
	}
	return nil
}
