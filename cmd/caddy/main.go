// Command caddy is Caddy with its standard modules and this plugin, for people
// who have Go and do not want xcaddy:
//
//	go run ./cmd/caddy run --config example.Caddyfile
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-wechat/caddy-wechat-media"
)

func main() { caddycmd.Main() }
