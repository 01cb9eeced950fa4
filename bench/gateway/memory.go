package main

// Giving memory back between measurements, so that the peak of one is not what
// another has left behind.

import (
	"errors"
	"net/http"
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
)

func init() { caddy.RegisterModule(adminMemory{}) }

// adminMemory adds `POST /bench/free` to the admin API.
type adminMemory struct{}

// CaddyModule returns the Caddy module information.
func (adminMemory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.bench", New: func() caddy.Module { return new(adminMemory) }}
}

// Routes implements caddy.AdminRouter.
func (adminMemory) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/bench/free", Handler: caddy.AdminHandlerFunc(free)}}
}

func free(_ http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPost {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("use POST")}
	}
	debug.FreeOSMemory()
	return nil
}

// Interface guards
var _ caddy.AdminRouter = adminMemory{}
