// Package errcode is the one table of what WeChat's errcodes mean: which class
// they are of, the HTTP status that says the same, what kind of failure one is when
// it comes from a token endpoint, and what the operator must do about it.
//
// Sources: https://developers.weixin.qq.com/doc/service/guide/dev/api/errorcode (the
// common table), https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
// and https://developers.weixin.qq.com/doc/subscription/api/base/api_getaccesstoken (the
// token endpoints), https://developers.weixin.qq.com/doc/oplatform/developers/basic_func/ip_whitelist
// and https://developer.work.weixin.qq.com/document/path/90313 (WeCom).
package errcode

import (
	"net/http"
	"net/netip"
	"strings"
)

// The codes that the gateway itself answers with, or that code asks for by name.
const (
	Busy          = -1
	MediaType     = 40004
	MediaID       = 40007
	AppID         = 40013
	FileType      = 40005
	URL           = 40066
	NoMedia       = 41005
	TokenExpired  = 42001
	RequireGet    = 43001
	RequirePost   = 43002
	MediaTooLarge = 45001
)

// Class says whose errcode it is. The set is closed: it is a metric's label.
type Class string

// The classes.
const (
	OK      Class = "ok"
	Request Class = "request" // the caller's to mend
	Token   Class = "token"   // the access token was rejected
	Quota   Class = "quota"   // called too often
	Waiting Class = "busy"    // passes by itself
	Account Class = "account" // the operator's to mend
	Other   Class = "other"
)

// Kind names a failure to get a token. The set is closed: it is a metric's label.
type Kind string

// The kinds of failure.
const (
	KindBusy      Kind = "busy"                 // WeChat's -1
	KindNetwork   Kind = "network"              // no connection, or one that broke
	KindTimeout   Kind = "timeout"              // no answer in time
	KindReply     Kind = "bad_reply"            // an answer that makes no sense
	KindQuota     Kind = "quota"                // called too often
	KindSecret    Kind = "wrong_secret"         // the AppSecret is not the app's
	KindAppID     Kind = "wrong_app_id"         // there is no such app
	KindIP        Kind = "ip_not_allowed"       // this machine is not on the account's whitelist
	KindFrozen    Kind = "secret_frozen"        // somebody froze the AppSecret
	KindAccount   Kind = "account_blocked"      // the account may not have tokens
	KindComponent Kind = "component_required"   // a third-party platform holds the account
	KindConfirm   Kind = "confirmation_pending" // an administrator has to allow this machine
	KindDenied    Kind = "confirmation_denied"  // an administrator did not
	KindRequest   Kind = "bad_request"          // WeChat does not understand the request
	KindFile      Kind = "file"                 // no file, or no token in it
	KindSource    Kind = "source"               // everything else: a token server, another source
	KindBudget    Kind = "budget"               // the gateway's own limit on calls
)

// Kinds are all of them.
func Kinds() []Kind {
	return []Kind{KindBusy, KindNetwork, KindTimeout, KindReply, KindQuota, KindSecret, KindAppID, KindIP, KindFrozen, KindAccount,
		KindComponent, KindConfirm, KindDenied, KindRequest, KindFile, KindSource, KindBudget}
}

// Meaning is a row of the table.
type Meaning struct {
	Class  Class
	Status int  // the HTTP status that says the same
	Kind   Kind // at a token endpoint

	// What the operator must do, in one line, when the code comes on a media call
	// and only the operator can mend it. Empty: nobody has to be told.
	Todo string
}

// unknown is what a code means that is not in the table.
var unknown = Meaning{Class: Other, Status: http.StatusBadGateway, Kind: KindReply}

const (
	todoIP      = "add this machine's public IP address to the IP whitelist in the WeChat admin"
	todoNoRight = "the account may not use this API, or the token belongs to an account of another kind; see what the account is allowed in the WeChat admin"
	todoQuota   = "the account's quota for this API is used up until tomorrow; see in the WeChat admin who else calls it"
	todoAccount = "the account is restricted or frozen; look for notices in the WeChat admin"
)

// table has WeChat's codes.
var table = map[int]Meaning{
	0:    {OK, http.StatusOK, KindReply, ""},
	Busy: {Waiting, http.StatusServiceUnavailable, KindBusy, ""},

	40001:        {Token, http.StatusBadGateway, KindSecret, ""}, // at a token endpoint it is about the secret
	40014:        {Token, http.StatusBadGateway, KindReply, ""},
	TokenExpired: {Token, http.StatusBadGateway, KindReply, ""},

	MediaType: {Request, http.StatusBadRequest, KindReply, ""},
	FileType:  {Request, http.StatusBadRequest, KindReply, ""},
	NoMedia:   {Request, http.StatusBadRequest, KindReply, ""},
	40113:     {Request, http.StatusBadRequest, KindReply, ""},
	40137:     {Request, http.StatusBadRequest, KindReply, ""},
	44001:     {Request, http.StatusBadRequest, KindReply, ""},
	44002:     {Request, http.StatusBadRequest, KindRequest, ""},

	MediaID: {Request, http.StatusNotFound, KindReply, ""},
	40118:   {Request, http.StatusNotFound, KindReply, ""},
	40121:   {Request, http.StatusNotFound, KindReply, ""},
	41006:   {Request, http.StatusNotFound, KindReply, ""},

	40006:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	40009:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	40010:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	40011:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	40012:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	MediaTooLarge: {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	45002:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},
	45007:         {Request, http.StatusRequestEntityTooLarge, KindReply, ""},

	45009: {Quota, http.StatusTooManyRequests, KindQuota, todoQuota}, // a day's
	45011: {Quota, http.StatusTooManyRequests, KindQuota, ""},        // a minute's

	40164: {Account, http.StatusForbidden, KindIP, todoIP},
	61004: {Account, http.StatusForbidden, KindIP, todoIP},
	48001: {Account, http.StatusForbidden, KindReply, todoNoRight},
	48004: {Account, http.StatusForbidden, KindReply, todoAccount},
	50002: {Account, http.StatusForbidden, KindAccount, todoAccount},

	// of the token endpoints
	40002: {Other, http.StatusBadGateway, KindRequest, ""},
	AppID: {Other, http.StatusBadGateway, KindAppID, ""},
	40125: {Other, http.StatusBadGateway, KindSecret, ""},
	40243: {Other, http.StatusBadGateway, KindFrozen, ""},
	41002: {Other, http.StatusBadGateway, KindAppID, ""},
	41004: {Other, http.StatusBadGateway, KindSecret, ""},
	43002: {Other, http.StatusBadGateway, KindRequest, ""},
	47001: {Other, http.StatusBadGateway, KindRequest, ""},
	50004: {Account, http.StatusForbidden, KindAccount, todoAccount},
	50007: {Account, http.StatusForbidden, KindAccount, todoAccount},
	61024: {Other, http.StatusBadGateway, KindComponent, ""},
	89501: {Other, http.StatusBadGateway, KindConfirm, ""},
	89502: {Other, http.StatusBadGateway, KindConfirm, ""},
	89503: {Other, http.StatusBadGateway, KindConfirm, ""},
	89504: {Other, http.StatusBadGateway, KindConfirm, ""},
	89505: {Other, http.StatusBadGateway, KindConfirm, ""},
	89506: {Other, http.StatusBadGateway, KindDenied, ""}, // for 24 hours
	89507: {Other, http.StatusBadGateway, KindDenied, ""}, // for an hour
	42007: unknown,                                        // about a user's own authorisation, not about the app's token
}

// Of returns what a code means.
func Of(code int) Meaning {
	if m, ok := table[code]; ok {
		return m
	}
	return unknown
}

// Rejected reports whether a code says that the access token was refused: 40001
// invalid or not the latest, 40014 invalid, 42001 expired.
// https://developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html
func Rejected(code int) bool { return Of(code).Class == Token }

// AddrIn returns the IP address that an errmsg names, as in
// "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist rid: …".
func AddrIn(errmsg string) string {
	for word := range strings.FieldsSeq(errmsg) {
		if addr, err := netip.ParseAddr(strings.Trim(word, ",;.")); err == nil {
			return addr.Unmap().String()
		}
	}
	return ""
}
