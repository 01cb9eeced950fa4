package main

// What is compared, and how each is started.

import (
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"text/template"

	"github.com/caddy-wechat/caddy-wechat-media/bench/load"
	"github.com/caddy-wechat/caddy-wechat-media/bench/upstream"
)

//go:embed contenders
var configs embed.FS

const (
	ours           = "ours"
	stock          = "stock"
	tuned          = "tuned"
	nginx          = "nginx"
	nginxBuffering = "nginx-buffering" // uploads only, by the same processes
	limit          = "limit"
	direct         = "direct"
)

// contenders is the order in which they begin.
var contenders = []string{ours, stock, tuned, nginx, nginxBuffering, limit, direct}

// contender is one that is ready.
type contender struct {
	name  string
	url   string
	admin string   // URL of Caddy's admin API
	proc  *process // nil: direct
}

// pids are the processes whose time and memory count.
func (c *contender) pids() []int {
	if c.proc == nil {
		return nil
	}
	return c.proc.pids()
}

// end stops the contender.
func (c *contender) end() {
	if c.proc != nil {
		c.proc.stop()
	}
}

func (c *contender) takes(cell cell) bool {
	return c.name != nginxBuffering || cell.method == "POST"
}

// begin starts the chosen contenders, those that are not installed excepted.
func (r *rig) begin(ctx context.Context, chosen []string) ([]*contender, error) {
	var all []*contender
	for _, name := range contenders {
		if !matches(chosen, name) {
			continue
		}
		switch name {
		case direct:
			all = append(all, &contender{name: direct, url: "https://" + r.upstream.Addr})
		case nginx:
			if r.nginx == "" {
				fmt.Fprintln(os.Stderr, "nginx is not installed, and left out")
				continue
			}
			both, err := r.startNginx(ctx)
			if err != nil {
				return nil, err
			}
			for _, c := range both {
				if matches(chosen, c.name) {
					all = append(all, c)
				}
			}
		case nginxBuffering: // comes with nginx
		default:
			c, err := r.startCaddy(ctx, name)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// startCaddy starts the contender of that name, which is Caddy.
func (r *rig) startCaddy(ctx context.Context, name string) (*contender, error) {
	caddyfile, err := configs.ReadFile("contenders/" + name + ".caddyfile")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(r.dir, name)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, caddyfile, 0o600); err != nil {
		return nil, err
	}
	address, admin := freeAddress(), freeAddress()
	cmd := r.command(ctx, gatewayCore, r.gateway, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"BENCH_ADDRESS="+address, "BENCH_ADMIN="+admin, "BENCH_UPSTREAM="+r.upstream.Addr,
		"BENCH_CA="+r.caFile, "BENCH_SERVER_NAME="+upstream.ServerName, "BENCH_TOKEN_FILE="+r.tokenFile,
		"BENCH_APP_ID="+upstream.AppID, "BENCH_APP_SECRET="+upstream.AppSecret)
	proc, err := start(cmd, filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, proc)
	return &contender{name: name, url: "http://" + address, admin: "http://" + admin, proc: proc}, nil
}

// startNginx starts nginx, which is two contenders.
func (r *rig) startNginx(ctx context.Context) ([]*contender, error) {
	conf, err := template.ParseFS(configs, "contenders/nginx.conf")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(r.dir, nginx)
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "nginx.conf"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	workers := 1
	if !r.pin {
		workers = 2
	}
	address, buffering := freeAddress(), freeAddress()
	err = conf.Execute(file, map[string]any{
		"User": me.Username, "Workers": workers, "Dir": dir, "Address": address, "BufferingAddress": buffering,
		"Upstream": r.upstream.Addr, "ServerName": upstream.ServerName, "CA": r.caFile, "Token": r.upstream.Token,
	})
	if err != nil {
		return nil, err
	}
	cmd := r.command(ctx, gatewayCore, r.nginx, "-p", dir, "-c", file.Name(), "-g", "daemon off;")
	proc, err := start(cmd, filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	r.running = append(r.running, proc)
	return []*contender{
		{name: nginx, url: "http://" + address, proc: proc},
		{name: nginxBuffering, url: "http://" + buffering, proc: proc},
	}, nil
}

// ready gives back what memory c has left from before, and forgets its peak.
func (c *contender) ready() error {
	if c.proc == nil {
		return nil
	}
	select {
	case <-c.proc.done:
		return fmt.Errorf("%s has ended: %v\n%s", c.name, c.proc.err, c.proc.output())
	default:
	}
	if c.admin != "" {
		if err := load.Control(c.admin, "/bench/free"); err != nil {
			return fmt.Errorf("freeing memory of %s: %w", c.name, err)
		}
	}
	return forgetPeak(c.pids())
}

func findNginx() string {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// freeAddress is where nobody listens.
func freeAddress() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // no loopback address: nothing can be measured here
	}
	defer l.Close()
	return l.Addr().String()
}
