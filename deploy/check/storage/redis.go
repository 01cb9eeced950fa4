// Package storage stands in for a Redis storage module, such as
// github.com/pberkel/caddy-storage-redis, so that the checks, and the test of a fleet,
// need no more than client libraries: it has that module's name, and those of its options
// that they use. It is made as such modules are: go-redis with its own timeouts and
// retries, locks by redislock with a lease that is renewed, and a client that is closed
// when its config goes. It encrypts nothing, so it is for tests alone.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/redis/go-redis/v9"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

const (
	prefix     = "caddy/"
	lockPrefix = "caddy-lock/"

	lease      = 10 * time.Second // how long a lock outlives its holder
	leaseRenew = 3 * time.Second
	lockPoll   = 100 * time.Millisecond
)

func init() { caddy.RegisterModule(new(Redis)) }

// Redis keeps what Caddy stores in Redis.
type Redis struct {
	Host          string `json:"host,omitempty"`
	Port          string `json:"port,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	EncryptionKey string `json:"encryption_key,omitempty"`

	client *redis.Client
	locker *redislock.Client

	mu    sync.Mutex
	locks map[string]*heldLock
}

// heldLock is a lock whose lease is renewed until renewing ends.
type heldLock struct {
	*redislock.Lock
	end context.CancelFunc
}

// CaddyModule returns the Caddy module information.
func (*Redis) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.redis", New: func() caddy.Module { return new(Redis) }}
}

// Provision resolves the options, as the module that this stands in for does. It
// connects to nothing.
func (s *Redis) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	host, port := repl.ReplaceAll(s.Host, "127.0.0.1"), repl.ReplaceAll(s.Port, "6379")
	if port == "" {
		port = "6379"
	}
	if key, err := repl.ReplaceOrErr(s.EncryptionKey, true, true); err != nil || key != "" && len(key) < 32 {
		return errors.New("encryption_key must have 32 bytes at least")
	}
	s.client = redis.NewClient(&redis.Options{Addr: host + ":" + port, Username: s.Username, Password: repl.ReplaceAll(s.Password, "")})
	s.locker = redislock.New(s.client)
	s.locks = make(map[string]*heldLock)
	return nil
}

// Cleanup closes the connections.
func (s *Redis) Cleanup() error {
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// CertMagicStorage implements caddy.StorageConverter.
func (s *Redis) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

// UnmarshalCaddyfile reads: redis { host <name>; port <n>; username <name>; password <password>; encryption_key <key> }
func (s *Redis) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextBlock(0) {
		option := map[string]*string{"host": &s.Host, "port": &s.Port, "username": &s.Username, "password": &s.Password,
			"encryption_key": &s.EncryptionKey}[d.Val()]
		if option == nil {
			return d.Errf("unknown option %s", d.Val())
		}
		if !d.AllArgs(option) {
			return d.ArgErr()
		}
	}
	return nil
}

// Lock implements certmagic.Locker.
func (s *Redis) Lock(ctx context.Context, key string) error {
	for {
		lock, err := s.locker.Obtain(ctx, lockPrefix+key, lease, &redislock.Options{RetryStrategy: redislock.LinearBackoff(lockPoll)})
		switch {
		case err == nil:
			s.hold(key, lock)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, redislock.ErrNotObtained) && !errors.Is(err, context.DeadlineExceeded):
			return err
		}
	}
}

// hold renews the lease until Unlock.
func (s *Redis) hold(key string, lock *redislock.Lock) {
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.locks[key] = &heldLock{lock, cancel}
	s.mu.Unlock()
	go func() {
		tick := time.NewTicker(leaseRenew)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = lock.Refresh(ctx, lease, nil)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Unlock implements certmagic.Locker.
func (s *Redis) Unlock(ctx context.Context, key string) error {
	s.mu.Lock()
	lock := s.locks[key]
	delete(s.locks, key)
	s.mu.Unlock()
	if lock == nil {
		return fs.ErrNotExist
	}
	lock.end()
	return lock.Release(ctx)
}

// Store implements certmagic.Storage.
func (s *Redis) Store(ctx context.Context, key string, value []byte) error {
	return s.client.Set(ctx, prefix+key, value, 0).Err()
}

// Load implements certmagic.Storage.
func (s *Redis) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.client.Get(ctx, prefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		err = fs.ErrNotExist
	}
	return value, err
}

// Delete implements certmagic.Storage.
func (s *Redis) Delete(ctx context.Context, key string) error {
	return s.client.Del(ctx, prefix+key).Err()
}

// Exists implements certmagic.Storage.
func (s *Redis) Exists(ctx context.Context, key string) bool {
	n, err := s.client.Exists(ctx, prefix+key).Result()
	return err == nil && n > 0
}

// List implements certmagic.Storage, as if every key were a file: nothing here asks
// for more.
func (s *Redis) List(ctx context.Context, path string, _ bool) ([]string, error) {
	keys, err := s.client.Keys(ctx, prefix+path+"/*").Result()
	for i := range keys {
		keys[i] = strings.TrimPrefix(keys[i], prefix)
	}
	return keys, err
}

// Stat implements certmagic.Storage.
func (s *Redis) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := s.Load(ctx, key)
	if err != nil {
		return certmagic.KeyInfo{}, fmt.Errorf("%s: %w", key, err)
	}
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, nil
}

// Interface guards
var (
	_ caddy.Provisioner      = (*Redis)(nil)
	_ caddy.CleanerUpper     = (*Redis)(nil)
	_ caddy.StorageConverter = (*Redis)(nil)
	_ caddyfile.Unmarshaler  = (*Redis)(nil)
	_ certmagic.Storage      = (*Redis)(nil)
)
