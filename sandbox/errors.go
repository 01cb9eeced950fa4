package sandbox

// The errors, with the words that WeChat and WeCom use.

import "strings"

// apiError is one of WeChat's or WeCom's errors. In msg, {ip} is the caller's address.
type apiError struct {
	code int
	msg  string
}

func (e *apiError) message(caller string) string { return strings.ReplaceAll(e.msg, "{ip}", caller) }

var (
	errBusy           = &apiError{-1, "system error"}
	errCredential     = &apiError{40001, "invalid credential, access_token is invalid or not latest, could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"}
	errSecretAtToken  = &apiError{40001, "invalid credential"}
	errGrantType      = &apiError{40002, "invalid grant_type"}
	errMediaType      = &apiError{40004, "invalid media type"}
	errFileType       = &apiError{40005, "invalid file type"}
	errMediaSize      = &apiError{40006, "invalid media size"}
	errMediaID        = &apiError{40007, "invalid media_id"}
	errImageSize      = &apiError{40009, "invalid image size"}
	errVoiceSize      = &apiError{40010, "invalid voice size"}
	errVideoSize      = &apiError{40011, "invalid video size"}
	errThumbSize      = &apiError{40012, "invalid thumb size"}
	errAppID          = &apiError{40013, "invalid appid"}
	errCorpID         = &apiError{40013, "invalid corpid"}
	errToken          = &apiError{40014, "invalid access_token"}
	errAppSecret      = &apiError{40125, "invalid appsecret"}
	errTokenMissing   = &apiError{41001, "access_token missing"}
	errAppIDMissing   = &apiError{41002, "appid missing"}
	errCorpIDMissing  = &apiError{41002, "corpid missing"}
	errSecretMissing  = &apiError{41004, "appsecret missing"}
	errCorpSecret     = &apiError{41004, "corpsecret missing"}
	errMediaMissing   = &apiError{41005, "media data missing"}
	errMediaIDMissing = &apiError{41006, "media_id missing"}
	errTokenExpired   = &apiError{42001, "access_token expired"}
	errRequireGet     = &apiError{43001, "require GET method"}
	errRequirePost    = &apiError{43002, "require POST method"}
	errEmptyMedia     = &apiError{44001, "empty media data"}
	errEmptyPost      = &apiError{44002, "empty post data"}
	errMediaTooLarge  = &apiError{45001, "media size out of limit"}
	errDailyQuota     = &apiError{45009, "reach max api daily quota limit"}
	errFrequency      = &apiError{45009, "api freq out of limit"}
	errMinuteQuota    = &apiError{45011, "api minute-quota reach limit, must slower, retry next minute"}
	errPostData       = &apiError{47001, "data format error"}
	errNeedsRange     = &apiError{830002, "file size out of limit, use Range"} // the words are a guess
)

// faultErrors are those that Refuse knows the words of, beside -1.
var faultErrors = []*apiError{
	errCredential, errToken, errTokenExpired, errMediaID, errDailyQuota, errMinuteQuota, errNeedsRange,
	{40164, "invalid ip {ip} ipv6 ::ffff:{ip}, not in whitelist"},
	{45033, "api concurrent out of limit"},
	{48001, "api unauthorized"},
	{50002, "user limited"},
	{60020, "not allow to access from your ip"},
	{61004, "access clientip is not registered requestIP: {ip}"},
}

// errorOf returns the error with a code; one that is not known has words of its own.
func errorOf(code int) *apiError {
	if code == errBusy.code {
		return errBusy
	}
	for _, e := range faultErrors {
		if e.code == code {
			return e
		}
	}
	return &apiError{code, "refused by the sandbox"}
}
