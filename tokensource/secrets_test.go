package tokensource

import "testing"

func TestHide(t *testing.T) {
	for _, tc := range []struct {
		msg, want string
		secrets   []string
	}{
		{"no access", "no access", []string{"SENTINEL"}},
		{"a SENTINEL, SENTINEL", "a [redacted], [redacted]", []string{"SENTINEL"}},
		{"SENTINELlong SENTINEL", "[redacted] [redacted]", []string{"SENTINEL", "SENTINELlong"}},
		{"%53ENT%49nEL S%", "%53ENT%49nEL S%", []string{"SENTINEL"}},
		{"%53ENT%49NEL S%45", "[redacted] S%45", []string{"SENTINEL"}},
		{"c%20d+e, %e5%BE%AE信", "[redacted], [redacted]", []string{"c d e", "微信"}},
		{"%2541bcd", "[redacted]", []string{"%41bcd"}},
		{"app 1 of 123", "app 1 of 123", []string{"1", "123", ""}},
	} {
		if got := hide(tc.msg, tc.secrets); got != tc.want {
			t.Errorf("%q without %q: got %q, want %q", tc.msg, tc.secrets, got, tc.want)
		}
	}
}
