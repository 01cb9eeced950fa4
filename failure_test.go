package wechatmedia

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
		kind    failureKind
		errcode int
		hint    string
	}{
		{&ErrcodeError{-1, "system error"}, failureBusy, -1, "nothing to do"},
		{&ErrcodeError{40001, "invalid credential"}, failureSecret, 40001, "AppSecret is wrong"},
		{&ErrcodeError{40125, "invalid appsecret"}, failureSecret, 40125, "AppSecret is wrong"},
		{&ErrcodeError{41004, "appsecret missing"}, failureSecret, 41004, "AppSecret is wrong"},
		{&ErrcodeError{40013, "invalid appid"}, failureAppID, 40013, "AppID is wrong"},
		{&ErrcodeError{41002, "appid missing"}, failureAppID, 41002, "AppID is wrong"},
		{&ErrcodeError{40164, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: 65f0"}, failureIP, 40164, "add 203.0.113.9 to the IP whitelist"},
		{&ErrcodeError{61004, "access clientip is not registered, requestIP: 2001:db8::9"}, failureIP, 61004, "add 2001:db8::9 to the IP whitelist"},
		{&ErrcodeError{40164, "invalid ip"}, failureIP, 40164, "add this machine's public IP address"},
		{&ErrcodeError{40243, "appsecret frozen"}, failureFrozen, 40243, "unfreeze it"},
		{&ErrcodeError{45009, "reach max api daily quota limit"}, failureQuota, 45009, "quota of token calls is used up"},
		{&ErrcodeError{45011, "api minute-quota reach limit"}, failureQuota, 45011, "quota of token calls is used up"},
		{&ErrcodeError{50002, "user limited"}, failureAccount, 50002, "may not get access tokens"},
		{&ErrcodeError{50004, "forbidden"}, failureAccount, 50004, "may not get access tokens"},
		{&ErrcodeError{50007, "account frozen"}, failureAccount, 50007, "may not get access tokens"},
		{&ErrcodeError{61024, ""}, failureComponent, 61024, "third-party platform"},
		{&ErrcodeError{89503, ""}, failureConfirm, 89503, "administrator of the account has to confirm"},
		{&ErrcodeError{89507, ""}, failureDenied, 89507, "refused this machine"},
		{&ErrcodeError{43002, "require POST method"}, failureRequest, 43002, "does not understand"},
		{&ErrcodeError{12345, "?"}, failureReply, 12345, "look errcode up"},
		{fmt.Errorf("asking: %w", &ErrcodeError{-1, ""}), failureBusy, -1, "nothing to do"},
		{badReply("no JSON"), failureReply, 0, "not WeChat's token endpoint"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), failureTimeout, 0, "in time"},
		{scrub(&url.Error{Op: "Get", URL: "x", Err: context.DeadlineExceeded}), failureTimeout, 0, "in time"},
		{scrub(&url.Error{Op: "Get", URL: "x", Err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}}), failureNetwork, 0, "cannot be reached"},
		{scrub(errors.New("EOF")), failureNetwork, 0, "cannot be reached"},
		{errors.New("open token: no such file"), failureSource, 0, "see the error"},
		{withoutSecrets(&ErrcodeError{40125, "SENTINEL"}, "SENTINEL"), failureSecret, 40125, "AppSecret is wrong"},
	} {
		f := classify(tc.err)
		if f.kind != tc.kind || f.errcode != tc.errcode || !strings.Contains(f.hint, tc.hint) {
			t.Errorf("%v: got %s, errcode %d, hint %q; want %s, %d, %q", tc.err, f.kind, f.errcode, f.hint, tc.kind, tc.errcode, tc.hint)
		}
		if strings.ContainsAny(f.hint, "\r\n") || f.hint == "" {
			t.Errorf("%v: the hint %q is not one line", tc.err, f.hint)
		}
	}
	for code, kind := range errcodeKinds {
		if _, ok := failureTraits[kind]; !ok {
			t.Errorf("errcode %d: nothing is known of %s", code, kind)
		}
	}
}

func TestBackOff(t *testing.T) {
	for _, tc := range []struct {
		kind     failureKind
		failures int
		min, max time.Duration
	}{
		{failureBusy, 1, time.Second, 1250 * time.Millisecond},
		{failureBusy, 2, 2 * time.Second, 2500 * time.Millisecond},
		{failureBusy, 1000, 48 * time.Second, time.Minute},
		{failureQuota, 1, time.Minute, 75 * time.Second},
		{failureQuota, 1000, 8 * time.Minute, 10 * time.Minute},
		{failureSecret, 1, time.Minute, 75 * time.Second},
		{failureIP, 3, 4 * time.Minute, 5 * time.Minute},
		{failureConfirm, 1, 4 * time.Minute, 5 * time.Minute},
		{failureDenied, 1000, 40 * time.Minute, 50 * time.Minute},
	} {
		for _, jitter := range []float64{0, 0.5, 0.9999} {
			if got := tc.kind.delay(tc.failures, jitter); got < tc.min || got > tc.max {
				t.Errorf("%s, failure %d: %v, want from %v to %v", tc.kind, tc.failures, got, tc.min, tc.max)
			}
		}
	}
	for kind, traits := range failureTraits {
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
		if got := scrub(err); strings.Contains(got.Error(), secret) || strings.Contains(fmt.Sprintf("%+v %#v", got, got), secret) {
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
		if got := redact(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
	if got := redact(strings.Repeat("word ", 1000)); len(got) > 320 {
		t.Errorf("%d bytes", len(got))
	}
}
