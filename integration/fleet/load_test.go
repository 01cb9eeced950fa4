//go:build linux

package fleet

// A steady load of downloads, and what became of each.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// loadEvery is how often each gateway gets a request for each source: three of them get
// 20 a second, for each.
const loadEvery = 150 * time.Millisecond

// request is one that was made, and how it ended.
type request struct {
	source *source
	begin  time.Time
	took   time.Duration
	err    error
}

// load is the requests made so far.
type load struct {
	mu       sync.Mutex
	requests []request
	wg       sync.WaitGroup
	end      context.CancelFunc
}

// startLoad begins to make requests, whatever becomes of those before.
func startLoad(gateways []*gateway, media map[*source]string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{end: cancel}
	for i, g := range gateways {
		for j, src := range sources {
			phase := loadEvery * time.Duration(i*len(sources)+j) / time.Duration(len(gateways)*len(sources))
			l.wg.Go(func() {
				time.Sleep(phase)
				l.drive(ctx, g, src, media[src])
			})
		}
	}
	return l
}

func (l *load) drive(ctx context.Context, g *gateway, src *source, media string) {
	tick := time.NewTicker(loadEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if g.away.Load() {
			continue
		}
		l.wg.Go(func() {
			r := request{source: src, begin: time.Now()}
			r.err = g.download(src, media)
			r.took = time.Since(r.begin)
			if g.away.Load() {
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.requests = append(l.requests, r)
		})
	}
}

// stop makes no more requests, waits for those under way, and returns them all.
func (l *load) stop() []request {
	l.end()
	l.wg.Wait()
	return l.requests
}

func (g *gateway) download(src *source, media string) error {
	res, err := g.client.Get("http://127.0.0.1:" + g.port + "/" + src.name + "/media/" + media)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s", res.Status, body)
	case !bytes.Equal(body, picture):
		return fmt.Errorf("another picture, of %d bytes: %.100q", len(body), body)
	}
	return nil
}
