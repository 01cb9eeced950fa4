// Package tokensource has the token sources that come with the gateway, as Caddy
// modules in the namespace `http.wechat.token_sources`, each with its grammar in the
// Caddyfile: [Stable], [Classic], [Server], [File] and [WeCom].
//
// # A source of one's own
//
// Another source is a Caddy module in the same namespace that implements
// [github.com/caddy-wechat/caddy-wechat-media/token.Source]; package token is all
// that it has to import of this project. `token vault kv/wechat` in a Caddyfile loads
// this one:
//
//	func init() { caddy.RegisterModule(new(Vault)) }
//
//	type Vault struct {
//		Path string `json:"path,omitempty"`
//	}
//
//	func (*Vault) CaddyModule() caddy.ModuleInfo {
//		return caddy.ModuleInfo{
//			ID:  "http.wechat.token_sources.vault",
//			New: func() caddy.Module { return new(Vault) },
//		}
//	}
//
//	func (v *Vault) Traits() token.Traits { return token.Traits{Identity: "vault " + v.Path} }
//
//	func (v *Vault) Fetch(ctx context.Context, req token.Request) (token.Reply, error) {
//		secret, err := … // within ctx; nothing is to be cached, and no error may quote a secret
//		if err != nil {
//			return token.Reply{}, fmt.Errorf("reading from the vault: %w", err)
//		}
//		return token.Reply{AccessToken: secret.Token, ExpiresIn: secret.TTL}, nil
//	}
//
//	// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//	//
//	//	token vault <path>
//	func (v *Vault) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
//		d.Next() // consume source name
//		if !d.AllArgs(&v.Path) {
//			return d.Err("wrong arguments; write: token vault <path>")
//		}
//		return nil
//	}
//
// What a source calls over HTTP goes through Request.Client, so that it takes the
// egress proxy and the TLS trust of the transport.
package tokensource
