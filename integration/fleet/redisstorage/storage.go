// Package redisstorage keeps Caddy's storage in Redis, for the test of a fleet. It is
// made as the storage modules are that people use: go-redis with its own timeouts and
// retries, locks by redislock with a lease that is renewed, and a client that is
// closed when its config goes.
package redisstorage

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"
)

const (
	prefix     = "caddy/"
	lockPrefix = "caddy-lock/"

	lease      = 10 * time.Second // how long a lock outlives its holder
	leaseRenew = 3 * time.Second
	lockPoll   = 100 * time.Millisecond
)

func init() { caddy.RegisterModule(new(Storage)) }

// Storage is the module.
type Storage struct {
	// Host and port.
	Address string `json:"address"`

	Username string `json:"username,omitempty"`

	// Placeholders are replaced.
	Password string `json:"password,omitempty"`

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

// CaddyModule implements caddy.Module.
func (*Storage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.fleet_redis", New: func() caddy.Module { return new(Storage) }}
}

// Provision implements caddy.Provisioner. It connects to nothing.
func (s *Storage) Provision(caddy.Context) error {
	s.client = redis.NewClient(&redis.Options{
		Addr: s.Address, Username: s.Username, Password: caddy.NewReplacer().ReplaceAll(s.Password, ""),
	})
	s.locker = redislock.New(s.client)
	s.locks = make(map[string]*heldLock)
	return nil
}

// Cleanup implements caddy.CleanerUpper.
func (s *Storage) Cleanup() error { return s.client.Close() }

// CertMagicStorage implements caddy.StorageConverter.
func (s *Storage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }

// Lock implements certmagic.Locker.
func (s *Storage) Lock(ctx context.Context, key string) error {
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
func (s *Storage) hold(key string, lock *redislock.Lock) {
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
func (s *Storage) Unlock(ctx context.Context, key string) error {
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
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	return s.client.Set(ctx, prefix+key, value, 0).Err()
}

// Load implements certmagic.Storage.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.client.Get(ctx, prefix+key).Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, fs.ErrNotExist
	}
	return value, err
}

// Delete implements certmagic.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return s.client.Del(ctx, prefix+key).Err()
}

// Exists implements certmagic.Storage.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	n, err := s.client.Exists(ctx, prefix+key).Result()
	return err == nil && n > 0
}

// List implements certmagic.Storage. There are few keys in a test; it always goes
// through them all.
func (s *Storage) List(ctx context.Context, path string, _ bool) ([]string, error) {
	keys, err := s.client.Keys(ctx, prefix+path+"*").Result()
	for i := range keys {
		keys[i] = strings.TrimPrefix(keys[i], prefix)
	}
	return keys, err
}

// Stat implements certmagic.Storage.
func (s *Storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := s.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, err
}

// UnmarshalCaddyfile reads `storage fleet_redis <address> <username> <password>`.
func (s *Storage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.AllArgs(&s.Address, &s.Username, &s.Password) {
		return d.ArgErr()
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner      = (*Storage)(nil)
	_ caddy.CleanerUpper     = (*Storage)(nil)
	_ caddy.StorageConverter = (*Storage)(nil)
	_ caddyfile.Unmarshaler  = (*Storage)(nil)
	_ certmagic.Storage      = (*Storage)(nil)
)
