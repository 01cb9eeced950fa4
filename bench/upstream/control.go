package upstream

// The other door: what the rig asks of the upstream between measurements.

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Status is what the upstream has counted.
type Status struct {
	Fetches  int64 `json:"fetches"`  // of tokens
	Rejected int64 `json:"rejected"` // requests with a token that is not valid
	Opened   int64 `json:"opened"`   // connections, after their handshake
}

// control serves
//
//	GET  /status
//	POST /revoke                 all tokens that were handed out
//	POST /checks?value=1         answer uploads with the SHA-256 of their body as the media_id
//	POST /lifetime?value=7200    of tokens from now on, in seconds
//	POST /delay?value=0          before a token is handed out, in milliseconds
func (w *wechat) control() http.Handler {
	set := func(store func(int64)) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			value, err := strconv.ParseInt(r.FormValue("value"), 10, 64)
			if err != nil {
				http.Error(rw, err.Error(), http.StatusBadRequest)
				return
			}
			store(value)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(Status{Fetches: w.fetches.Load(), Rejected: w.rejected.Load(), Opened: w.opened.Load()})
	})
	mux.HandleFunc("POST /revoke", func(http.ResponseWriter, *http.Request) { w.revoke() })
	mux.HandleFunc("POST /checks", set(func(v int64) { w.checks.Store(v != 0) }))
	mux.HandleFunc("POST /lifetime", set(w.lifetime.Store))
	mux.HandleFunc("POST /delay", set(func(v int64) { w.delay.Store(v * int64(time.Millisecond)) }))
	return mux
}
