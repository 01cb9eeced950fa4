package wire

// For a request that failed on a connection which had waited too long.

import "context"

type freshKey struct{}

// Fresh returns a context for which no spare is taken: what waited beside a
// connection that died may be dead too.
func Fresh(ctx context.Context) context.Context { return context.WithValue(ctx, freshKey{}, true) }

func isFresh(ctx context.Context) bool { return ctx.Value(freshKey{}) != nil }
