package wechatmedia

// The token source file: a token that something else keeps fresh on disk.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(FileTokenSource))
}

const (
	// filePollInterval is how soon a change of the file is noticed.
	filePollInterval = 5 * time.Second

	// fileTokenLife is how long a token without an expiry is used after the file
	// could last be read.
	fileTokenLife = 2 * time.Hour
)

// FileTokenSource reads tokens from a file that something else keeps fresh, such
// as the platform of
// [WeChat cloud hosting](https://developers.weixin.qq.com/minigame/dev/wxcloud/guide/container/cloudcall.html),
// whose file is `/.tencentcloudbase/wx/cloudbase_access_token` and whose tokens go
// into the parameter `cloudbase_access_token`. A change is picked up within 5
// seconds. The file has either the token and nothing else, or a JSON object.
type FileTokenSource struct {
	// The file. Takes placeholders such as `{env.TOKEN_FILE}`, which are replaced
	// when the config is loaded. Required.
	Path string `json:"path,omitempty"`

	// The query parameter that the token goes into. Default: `access_token`.
	Param string `json:"param,omitempty"`

	TokenFields

	path string
}

// CaddyModule returns the Caddy module information.
func (*FileTokenSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.wechat.token_sources.file",
		New: func() caddy.Module { return new(FileTokenSource) },
	}
}

// Provision sets up s. It does not read the file.
func (s *FileTokenSource) Provision(caddy.Context) error {
	if s.Param == "" {
		s.Param = "access_token"
	}
	s.TokenFields.setDefaults()
	var err error
	if s.path, err = caddy.NewReplacer().ReplaceOrErr(s.Path, true, true); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	return nil
}

// Validate ensures that s can work.
func (s *FileTokenSource) Validate() error {
	if s.path == "" {
		return errors.New("path is required; write: token file <path>")
	}
	for _, r := range s.Param {
		if !isTokenRune(r) {
			return fmt.Errorf("param %q is not the name of a query parameter", s.Param)
		}
	}
	return s.TokenFields.validate()
}

// FetchToken implements TokenSource.
func (s *FileTokenSource) FetchToken(context.Context, TokenRequest) (TokenReply, error) {
	reply, err := s.read()
	if err != nil {
		return TokenReply{}, failure{kind: failureFile, hint: failureTraits[failureFile].hint,
			err: fmt.Errorf("reading token file: %w", err)}
	}
	reply.RefreshIn = filePollInterval
	return reply, nil
}

func (s *FileTokenSource) read() (TokenReply, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return TokenReply{}, withoutPath(err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would hang
		return TokenReply{}, errors.New("it is not a regular file")
	}
	f, err := os.Open(s.path)
	if err != nil {
		return TokenReply{}, withoutPath(err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxTokenReply+1))
	if err != nil {
		return TokenReply{}, withoutPath(err)
	}
	if len(content) > maxTokenReply {
		return TokenReply{}, fmt.Errorf("it has more than %d bytes", maxTokenReply)
	}
	content = bytes.TrimSpace(bytes.TrimPrefix(content, []byte("\ufeff")))
	if looksLikeJSON(content) {
		return s.TokenFields.parse(content, info.ModTime(), time.Now(), fileTokenLife)
	}
	reply := TokenReply{AccessToken: string(content), ExpiresIn: fileTokenLife}
	return reply, checkToken(reply.AccessToken)
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

// QueryParam implements QueryParamer.
func (s *FileTokenSource) QueryParam() string { return s.Param }

// tune allows for the polling.
func (s *FileTokenSource) tune(opts *tokenOptions) {
	opts.calls = allowance{burst: 60, every: time.Second}
}

// UnmarshalCaddyfile sets up the source from Caddyfile tokens. Syntax:
//
//	token file <path> {
//	    param            <name>
//	    token_field      <name>
//	    expires_in_field <name>
//	    expires_at_field <name>
//	}
func (s *FileTokenSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume source name
	if !d.AllArgs(&s.Path) || strings.TrimSpace(s.Path) == "" {
		return d.Err("wrong arguments; write: token file <path>")
	}
	for d.NextBlock(0) {
		var err error
		option := d.Val()
		switch option {
		case "param":
			err = oneArg(d, &s.Param)
		default:
			var known bool
			if known, err = s.TokenFields.unmarshalOption(d); !known {
				return d.Errf("unrecognized option %s of token file; use param, "+tokenFieldOptions, option)
			}
		}
		if err == nil {
			err = noSourceBlock(d, option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*FileTokenSource)(nil)
	_ caddy.Validator       = (*FileTokenSource)(nil)
	_ TokenSource           = (*FileTokenSource)(nil)
	_ QueryParamer          = (*FileTokenSource)(nil)
	_ caddyfile.Unmarshaler = (*FileTokenSource)(nil)
)
