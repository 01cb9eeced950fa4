// Command gateway is Caddy with this plugin and a storage in Redis.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-wechat/caddy-wechat-media"
	_ "github.com/caddy-wechat/caddy-wechat-media/deploy/check/storage"
)

func main() { caddycmd.Main() }
