// Package storage stands in for a Redis storage module, such as
// github.com/pberkel/caddy-storage-redis, so that the checks need no more than the
// client library: it has that module's name, and those of its options that
// deploy/compose uses. It encrypts nothing, so it is for checks alone.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(new(Redis)) }

// Redis keeps what Caddy stores in Redis.
type Redis struct {
	Host          string `json:"host,omitempty"`
	Port          string `json:"port,omitempty"`
	EncryptionKey string `json:"encryption_key,omitempty"`

	client *redis.Client
}

const (
	prefix     = "caddy/"
	lockLife   = time.Minute
	lockPause  = 50 * time.Millisecond
	longestTry = 2 * time.Second
)

// CaddyModule returns the Caddy module information.
func (*Redis) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.redis", New: func() caddy.Module { return new(Redis) }}
}

// Provision resolves the options, as the module that this stands in for does.
func (s *Redis) Provision(caddy.Context) error {
	repl := caddy.NewReplacer()
	host, port := repl.ReplaceAll(s.Host, "127.0.0.1"), repl.ReplaceAll(s.Port, "6379")
	if port == "" {
		port = "6379"
	}
	if key, err := repl.ReplaceOrErr(s.EncryptionKey, true, true); err != nil || len(key) < 32 {
		return errors.New("encryption_key must have 32 bytes at least")
	}
	s.client = redis.NewClient(&redis.Options{Addr: host + ":" + port, DialTimeout: longestTry, ReadTimeout: longestTry, MaxRetries: -1})
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

// UnmarshalCaddyfile reads: redis { host <name>; port <n>; encryption_key <key> }
func (s *Redis) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	for d.NextBlock(0) {
		option := map[string]*string{"host": &s.Host, "port": &s.Port, "encryption_key": &s.EncryptionKey}[d.Val()]
		if option == nil {
			return d.Errf("unknown option %s", d.Val())
		}
		if !d.AllArgs(option) {
			return d.ArgErr()
		}
	}
	return nil
}

// Lock waits until nobody else has the lock.
func (s *Redis) Lock(ctx context.Context, name string) error {
	for {
		got, err := s.client.SetNX(ctx, prefix+"locks/"+name, "", lockLife).Result()
		if got || err != nil {
			return err
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unlock gives the lock back.
func (s *Redis) Unlock(ctx context.Context, name string) error {
	return s.client.Del(ctx, prefix+"locks/"+name).Err()
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
