package token

import (
	"strings"
	"testing"
)

func TestCheckToken(t *testing.T) {
	for in, good := range map[string]bool{
		"abc_DEF-123.~+/=":                    true,
		"":                                    false,
		"token\n":                             false,
		"\ufefftoken":                         false,
		"to ken":                              false,
		"to\x00ken":                           false,
		"tokén":                               false,
		strings.Repeat("a", maxTokenLength):   true,
		strings.Repeat("a", maxTokenLength+1): false,
	} {
		err := CheckToken(in)
		if (err == nil) != good {
			t.Errorf("%q: %v", in, err)
		}
		if err != nil && len(in) > 0 && strings.Contains(err.Error(), in) {
			t.Errorf("%q is quoted: %v", in, err)
		}
	}
}
