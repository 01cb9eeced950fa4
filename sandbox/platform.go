package sandbox

// What differs between WeChat and WeCom.

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"
)

// platform is WeChat or WeCom.
type platform struct {
	mediaTypes      map[string]mediaType
	smallest        int   // the least that media have, in bytes
	maxForm         int64 // the largest form that is looked at, in bytes
	dailyQuota      map[Endpoint]int
	minuteQuota     map[Endpoint]int
	overMinuteQuota *apiError
	deadToken       *apiError // of a token that is unknown, replaced or revoked

	jsonType    string // the Content-Type of JSON
	uploadType  string // that of an upload's reply
	tokenBytes  int    // random bytes of a token
	mediaPrefix string // before the 64 characters of a media_id

	// explain returns the errmsg and two more headers of an error reply.
	explain func(e *apiError, at time.Time, caller string) (errmsg string, headers map[string]string)
}

// mediaType is a type of media that can be uploaded.
type mediaType struct {
	extensions []string // none: any
	limit      int      // in bytes
	tooLarge   *apiError
}

// wechat is mini programs and official accounts. Types, sizes and quotas are documented:
// https://developers.weixin.qq.com/doc/service/api/material/temporary/api_uploadtempmedia
// https://developers.weixin.qq.com/doc/service/Message_Management/API_Call_Limits.html
// https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken
// Which code a medium gets that is too large is not: these are the ones that the common
// table of errcodes has for it.
var wechat = &platform{
	mediaTypes: map[string]mediaType{
		"image": {[]string{"png", "jpeg", "jpg", "gif"}, 10 << 20, errImageSize},
		"voice": {[]string{"amr", "mp3"}, 2 << 20, errVoiceSize},
		"video": {[]string{"mp4"}, 10 << 20, errVideoSize},
		"thumb": {[]string{"jpg"}, 64 << 10, errThumbSize},
	},
	maxForm:         12 << 20,
	dailyQuota:      map[Endpoint]int{Token: 2000, StableToken: 500_000, MediaUpload: 100_000, MediaGet: 200_000, MediaJSSDK: 200_000},
	minuteQuota:     map[Endpoint]int{StableToken: 10_000},
	overMinuteQuota: errMinuteQuota,
	deadToken:       errCredential,
	jsonType:        "application/json; encoding=utf-8", // WeChat's own, and not a well-formed one
	uploadType:      "text/plain",
	tokenBytes:      102, // 136 characters, as in samples
	explain:         explainAsWechat,
}

// wecom is 企业微信. Types and sizes are documented, and so is the minute's quota:
// https://developer.work.weixin.qq.com/document/path/90253
// https://developer.work.weixin.qq.com/document/path/90312
// The codes for media that are too large or too small are guesses, from its table of
// errcodes: https://developer.work.weixin.qq.com/document/path/90313
var wecom = &platform{
	mediaTypes: map[string]mediaType{
		"image": {[]string{"png", "jpeg", "jpg"}, 10 << 20, errImageSize},
		"voice": {[]string{"amr"}, 2 << 20, errVoiceSize},
		"video": {[]string{"mp4"}, 10 << 20, errVideoSize},
		"file":  {nil, 20 << 20, errMediaTooLarge},
	},
	smallest:        6,
	maxForm:         22 << 20,
	minuteQuota:     map[Endpoint]int{CorpToken: 10_000, MediaUpload: 10_000, MediaGet: 10_000, MediaJSSDK: 10_000},
	overMinuteQuota: errFrequency,
	deadToken:       errToken, // also 40001 and 42001 are seen: which when, is a guess
	jsonType:        "application/json; charset=UTF-8",
	uploadType:      "application/json; charset=UTF-8",
	tokenBytes:      160, // 214 characters, as in samples
	mediaPrefix:     "3", // 65 characters, as in samples
	explain:         explainAsWecom,
}

// explainAsWechat adds the rid, for asking WeChat about an error: the time in
// hexadecimal, and two numbers that mean nothing here.
// https://github.com/w7corp/easywechat/issues/2759
// The headers are from a reply of 2021, https://juejin.cn/post/6947607483330330631; what
// else RetKey can be is unknown.
func explainAsWechat(e *apiError, at time.Time, caller string) (string, map[string]string) {
	var id [8]byte
	_, _ = rand.Read(id[:])
	h := hex.EncodeToString(id[:])
	return fmt.Sprintf("%s rid: %08x-%s-%s", e.message(caller), uint32(at.Unix()), h[:8], h[8:]),
		map[string]string{"RetKey": "11", "LogicRet": fmt.Sprint(e.code)}
}

// explainAsWecom adds the hint, which begins with the time, and the caller's address.
// https://github.com/AstrBotDevs/AstrBot/issues/633 and
// https://github.com/langbot-app/LangBot/issues/1599. The headers are in transcripts.
func explainAsWecom(e *apiError, at time.Time, caller string) (string, map[string]string) {
	n, _ := rand.Int(rand.Reader, big.NewInt(1e15))
	msg := fmt.Sprintf("%s, hint: [%d%015d], from ip: %s, more info at https://open.work.weixin.qq.com/devtool/query?e=%d",
		e.message(caller), at.Unix(), n, caller, e.code)
	return msg, map[string]string{"Error-Code": fmt.Sprint(e.code), "Error-Msg": msg}
}
