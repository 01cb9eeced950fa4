// Command gateway is Caddy with its standard modules, the plugin, and what the
// benchmark adds: all contenders that are Caddy run in this one binary.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-wechat/caddy-wechat-media"
)

func main() { caddycmd.Main() }
