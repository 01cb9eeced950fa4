//go:build linux

package fleet

// A real Redis, and the ways in which it fails.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisServer is a Redis of the test's own. The gateways come over TCP, as a user with
// a password; the test comes through a unix socket.
type redisServer struct {
	t     *testing.T
	port  string
	dir   string
	cmd   *exec.Cmd
	admin *redis.Client
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	r := &redisServer{t: t, port: freePort(t), dir: shortDir(t)}
	r.start()
	t.Cleanup(r.stop)
	return r
}

// start starts an empty Redis.
func (r *redisServer) start() {
	r.t.Helper()
	socket := filepath.Join(r.dir, "redis.sock")
	config := fmt.Sprintf("bind 127.0.0.1\nport %s\nunixsocket %s\nsave \"\"\ndir %s\nlogfile redis.log\nuser gateway on >%s ~* &* +@all\n",
		r.port, socket, r.dir, redisPassword)
	path := filepath.Join(r.dir, "redis.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command("redis-server", path)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("%v; it is in Debian's package redis-server", err)
	}
	r.admin = redis.NewClient(&redis.Options{Network: "unix", Addr: socket, ReadTimeout: time.Minute})
	eventually(r.t, 20*time.Second, "Redis to answer", func() bool { return r.admin.Ping(context.Background()).Err() == nil })
}

// stop kills it; all that it knew is lost.
func (r *redisServer) stop() {
	if r.cmd == nil {
		return
	}
	_ = r.admin.Close()
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	r.cmd = nil
}

// pause stops the process, not its port: connections are made, and nothing answers.
func (r *redisServer) pause()  { _ = r.cmd.Process.Signal(syscall.SIGSTOP) }
func (r *redisServer) resume() { _ = r.cmd.Process.Signal(syscall.SIGCONT) }

func (r *redisServer) do(args ...any) {
	r.t.Helper()
	if err := r.admin.Do(context.Background(), args...).Err(); err != nil {
		r.t.Fatalf("%v: %v", args[0], err)
	}
}

// pauseWrites leaves writes without an answer.
func (r *redisServer) pauseWrites() {
	r.do("CLIENT", "PAUSE", strconv.Itoa(int(time.Hour.Milliseconds())), "WRITE")
}
func (r *redisServer) resumeWrites() { r.do("CLIENT", "UNPAUSE") }

func (r *redisServer) flush() { r.do("FLUSHALL") }

// detach makes it the replica of a master that is not there: it serves what it has, and
// takes nothing.
func (r *redisServer) detach()  { r.do("REPLICAOF", "127.0.0.1", "1") }
func (r *redisServer) promote() { r.do("REPLICAOF", "NO", "ONE") }

// setPassword changes the gateways' password, and ends their connections.
func (r *redisServer) setPassword(password string) {
	r.do("ACL", "SETUSER", "gateway", "resetpass", ">"+password)
	r.do("CLIENT", "KILL", "USER", "gateway")
}

// stored returns how many tokens it keeps.
func (r *redisServer) stored() int {
	keys, err := r.admin.Keys(context.Background(), "*wechat/tokens/*/token").Result()
	if err != nil {
		r.t.Fatal(err)
	}
	return len(keys)
}
