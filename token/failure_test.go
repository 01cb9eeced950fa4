package token

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		err     error
		kind    Kind
		errcode int
		hint    string
	}{
		{&ErrcodeError{-1, "system error"}, KindBusy, -1, "nothing to do"},
		{&ErrcodeError{40001, "invalid credential"}, KindSecret, 40001, "AppSecret is wrong"},
		{&ErrcodeError{40125, "invalid appsecret"}, KindSecret, 40125, "AppSecret is wrong"},
		{&ErrcodeError{41004, "appsecret missing"}, KindSecret, 41004, "AppSecret is wrong"},
		{&ErrcodeError{40013, "invalid appid"}, KindAppID, 40013, "AppID is wrong"},
		{&ErrcodeError{41002, "appid missing"}, KindAppID, 41002, "AppID is wrong"},
		{&ErrcodeError{40164, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 65f0"}, KindIP, 40164, "add 203.0.113.9 to the IP whitelist"},
		{&ErrcodeError{61004, "access clientip is not registered, requestIP: 2001:db8::9"}, KindIP, 61004, "add 2001:db8::9 to the IP whitelist"},
		{&ErrcodeError{40164, "invalid ip"}, KindIP, 40164, "add this machine's public IP address"},
		{&ErrcodeError{40243, "appsecret frozen"}, KindFrozen, 40243, "unfreeze it"},
		{&ErrcodeError{45009, "reach max api daily quota limit"}, KindQuota, 45009, "quota of token calls is used up"},
		{&ErrcodeError{45011, "api minute-quota reach limit"}, KindQuota, 45011, "quota of token calls is used up"},
		{&ErrcodeError{50002, "user limited"}, KindAccount, 50002, "may not get access tokens"},
		{&ErrcodeError{50004, "forbidden"}, KindAccount, 50004, "may not get access tokens"},
		{&ErrcodeError{50007, "account frozen"}, KindAccount, 50007, "may not get access tokens"},
		{&ErrcodeError{61024, ""}, KindComponent, 61024, "third-party platform"},
		{&ErrcodeError{89503, ""}, KindConfirm, 89503, "administrator of the account has to confirm"},
		{&ErrcodeError{89507, ""}, KindDenied, 89507, "refused this machine"},
		{&ErrcodeError{43002, "require POST method"}, KindRequest, 43002, "does not understand"},
		{&ErrcodeError{12345, "?"}, KindReply, 12345, "look errcode up"},
		{fmt.Errorf("asking: %w", &ErrcodeError{-1, ""}), KindBusy, -1, "nothing to do"},
		{BadReply("no JSON"), KindReply, 0, "not the token endpoint"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), KindTimeout, 0, "in time"},
		{Scrub(&url.Error{Op: "Get", URL: "x", Err: context.DeadlineExceeded}), KindTimeout, 0, "in time"},
		{Scrub(&url.Error{Op: "Get", URL: "x", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}), KindNetwork, 0, "cannot be reached"},
		{Scrub(errors.New("EOF")), KindNetwork, 0, "cannot be reached"},
		{errors.New("open token: no such file"), KindSource, 0, "see the error"},
		{WithoutSecrets(&ErrcodeError{40125, "SENTINEL"}, "SENTINEL"), KindSecret, 40125, "AppSecret is wrong"},
	} {
		f := classify(tc.err, nil)
		if f.Kind != tc.kind || f.Errcode != tc.errcode || !strings.Contains(f.Hint, tc.hint) {
			t.Errorf("%v: got %s, errcode %d, hint %q; want %s, %d, %q", tc.err, f.Kind, f.Errcode, f.Hint, tc.kind, tc.errcode, tc.hint)
		}
		if strings.ContainsAny(f.Hint, "\r\n") || f.Hint == "" {
			t.Errorf("%v: the hint %q is not one line", tc.err, f.Hint)
		}
	}
}

// A source's hints fit it better than those that are about WeChat's endpoint.
func TestHints(t *testing.T) {
	hints := map[Kind]string{KindReply: "look at http://tokens/", KindIP: "tell the operator of tokens that {this machine's public IP address} calls"}
	for want, err := range map[string]error{
		"look at http://tokens/":                                                  BadReply("status 302 instead of 200"),
		"tell the operator of tokens that 203.0.113.9 calls":                      &ErrcodeError{40164, "invalid ip 203.0.113.9"},
		"tell the operator of tokens that this machine's public IP address calls": &ErrcodeError{40164, ""},
		"the AppSecret is wrong; copy it again from the WeChat admin, and restart, or reload with --force if it comes from a file": &ErrcodeError{40125, ""},
		"mine": fmt.Errorf("wrapped: %w", &Failure{Kind: KindReply, Hint: "mine", Err: errors.New("x")}),
	} {
		if f := classify(err, hints); f.Hint != want {
			t.Errorf("%v: the hint is %q", err, f.Hint)
		}
	}
	if f := classify(&Failure{Kind: "nonsense"}, nil); f.Kind != KindSource || f.Error() == "" {
		t.Errorf("got %+v", f)
	}
}

func TestBackOff(t *testing.T) {
	for _, tc := range []struct {
		kind     Kind
		failures int
		min, max time.Duration
	}{
		{KindBusy, 1, time.Second, 1250 * time.Millisecond},
		{KindBusy, 2, 2 * time.Second, 2500 * time.Millisecond},
		{KindBusy, 1000, 48 * time.Second, time.Minute},
		{KindQuota, 1, time.Minute, 75 * time.Second},
		{KindQuota, 1000, 8 * time.Minute, 10 * time.Minute},
		{KindSecret, 1, time.Minute, 75 * time.Second},
		{KindIP, 3, 4 * time.Minute, 5 * time.Minute},
		{KindConfirm, 1, 4 * time.Minute, 5 * time.Minute},
		{KindDenied, 1000, 40 * time.Minute, 50 * time.Minute},
	} {
		for _, jitter := range []float64{0, 0.5, 0.9999} {
			if got := delay(tc.kind, tc.failures, jitter); got < tc.min || got > tc.max {
				t.Errorf("%s, failure %d: %v, want from %v to %v", tc.kind, tc.failures, got, tc.min, tc.max)
			}
		}
	}
	for kind, traits := range traitsOf {
		if traits.backOff.first < time.Second || traits.backOff.most < traits.backOff.first {
			t.Errorf("%s backs off by %+v", kind, traits.backOff)
		}
	}
}

func TestScrub(t *testing.T) {
	const secret = "SENTINELsecret"
	for _, err := range []error{
		&url.Error{Op: "Get", URL: "https://h/cgi-bin/token?secret=" + secret, Err: errors.New("EOF")},
		fmt.Errorf("twice: %w", &url.Error{Op: "Get", URL: secret, Err: &url.Error{Op: "Get", URL: secret, Err: context.Canceled}}),
		fmt.Errorf("malformed HTTP response %q", `{"access_token":"`+secret),
	} {
		if got := Scrub(err); strings.Contains(got.Error(), secret) || strings.Contains(fmt.Sprintf("%+v %#v", got, got), secret) {
			t.Errorf("%q carries the secret", got)
		}
	}
}

func TestRedact(t *testing.T) {
	long := strings.Repeat("a1", 16)
	for in, want := range map[string]string{
		"invalid ip 203.0.113.9 rid: 65f0a1b2-1a2b3c4d-5e6f7081": "invalid ip 203.0.113.9 rid: 65f0a1b2-1a2b3c4d-5e6f7081",
		"bad " + long + ", see":                                  "bad [redacted], see",
		long:                                                     "[redacted]",
		"two\r\nlines":                                           "two  lines",
	} {
		if got := Redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := Redact(strings.Repeat("word ", 1000)); len(got) > 320 {
		t.Errorf("%d bytes", len(got))
	}
}

// A secret is cut out whatever was done to it on its way through somebody else's URL.
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
		{"ab%253dc, ab%25253Dc, ab%25c", "[redacted], [redacted], ab%25c", []string{"ab=c"}},
		{"c%2520dd, c%252Bdd, c%2Bdd, c%25dd", "[redacted], [redacted], [redacted], c%25dd", []string{"c dd"}},
		{"%25E5%25be%25aE信", "[redacted]", []string{"微信"}},
		{"app 1 of 123", "app 1 of 123", []string{"1", "123", ""}},
	} {
		if got := hide(tc.msg, tc.secrets); got != tc.want {
			t.Errorf("%q without %q: got %q, want %q", tc.msg, tc.secrets, got, tc.want)
		}
	}
}
