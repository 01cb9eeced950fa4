//go:build !unix

package tokensource

// How the token file is opened where files have no pipes among them.

import "os"

const openFlags = os.O_RDONLY
