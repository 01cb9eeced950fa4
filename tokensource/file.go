package tokensource

// The token source file: a token that something else keeps fresh on disk.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-wechat/caddy-wechat-media/token"
)

func init() {
	caddy.RegisterModule(new(File))
}

const (
	// pollInterval is how soon a change of the file is noticed.
	pollInterval = 5 * time.Second

	// fileLife is how long a token without an expiry is used after the file could
	// last be read.
	fileLife = 2 * time.Hour
)

// File reads tokens from a file that something else keeps fresh, such as the
// platform of
// [WeChat cloud hosting](https://developers.weixin.qq.com/minigame/dev/wxcloud/guide/container/cloudcall.html),
// whose file is `/.tencentcloudbase/wx/cloudbase_access_token` and whose tokens go
// into the parameter `cloudbase_access_token`. A change is picked up within 5
// seconds. The file has either the token and nothing else, or a JSON object; white space
// around either, and a byte order mark, do no harm. Until the file can be read again, the
// last token is used. It needs no AppSecret, and cannot be shared: give all gateways the
// file.
type File struct {
	// The file. Takes placeholders such as `{env.TOKEN_FILE}`, which are replaced
	// when the config is loaded. Required.
	Path string `json:"path,omitempty"`

	// The query parameter that the token goes into. Default: `access_token`.
	Param string `json:"param,omitempty"`

	Fields

	path string
}

// CaddyModule returns the Caddy module information.
func (*File) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.file",
		New: func() caddy.Module { return new(File) },
	}
}

// Provision sets up f. It does not read the file.
func (f *File) Provision(caddy.Context) error {
	f.Param = cmp.Or(f.Param, "access_token")
	f.Fields.setDefaults()
	var err error
	f.path, err = resolve("path", f.Path)
	return err
}

// Validate ensures that f can work.
func (f *File) Validate() error {
	switch {
	case strings.TrimSpace(f.path) == "":
		return errors.New("path is required; write: token file <path>")
	case strings.ContainsFunc(f.Param, func(r rune) bool { return !isTokenRune(r) }):
		return fmt.Errorf("param %q is not the name of a query parameter", f.Param)
	}
	return f.Fields.validate()
}

// Traits implements token.Source.
func (f *File) Traits() token.Traits {
	return token.Traits{
		Identity:  "file " + f.path,
		NotShared: "the token of source file is not fetched, so there is nothing to share; give all gateways the file",
		Polls:     true,
		Param:     f.Param,
		Hints: map[token.Kind]string{
			token.KindFile: "see to it that the file of token file is there, can be read and has a token in it: " +
				"nothing else, or a JSON object with the token in the field " + f.TokenField,
		},
	}
}

// Fetch implements token.Source.
func (f *File) Fetch(context.Context, token.Request) (token.Reply, error) {
	reply, err := f.read()
	if err != nil {
		return token.Reply{}, &token.Failure{Kind: token.KindFile, Err: fmt.Errorf("reading token file: %w", err)}
	}
	reply.RefreshIn = pollInterval
	return reply, nil
}

func (f *File) read() (token.Reply, error) {
	// a pipe is not waited for
	file, err := os.OpenFile(f.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return token.Reply{}, withoutPath(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return token.Reply{}, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return token.Reply{}, errors.New("it is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(file, maxReply+1))
	if err != nil {
		return token.Reply{}, withoutPath(err)
	}
	if len(content) > maxReply {
		return token.Reply{}, fmt.Errorf("it has more than %d bytes", maxReply)
	}
	if content = trimText(content); isObject(content) {
		return f.Fields.parse(content, info.ModTime(), time.Now(), fileLife)
	}
	reply := token.Reply{AccessToken: string(content), ExpiresIn: fileLife}
	return reply, token.CheckToken(reply.AccessToken)
}

// withoutPath leaves the path out, which the operator knows and which may come
// from a placeholder.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token file <path> {
//	    param            <name>
//	    token_field      <name>
//	    expires_in_field <name>
//	    expires_at_field <name>
//	}
func (f *File) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if !d.AllArgs(&f.Path) || strings.TrimSpace(f.Path) == "" {
		return d.Err("wrong arguments; write: token file <path>")
	}
	return block(d, "file", append([]option{{usage: "param <name>", read: text(&f.Param)}}, f.Fields.options()...)...)
}

// Interface guards
var (
	_ caddy.Provisioner     = (*File)(nil)
	_ caddy.Validator       = (*File)(nil)
	_ token.Source          = (*File)(nil)
	_ caddyfile.Unmarshaler = (*File)(nil)
)
