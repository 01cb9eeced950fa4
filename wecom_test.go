package wechatmedia

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/internal/platform"
	"github.com/caddy-wechat/caddy-wechat-media/sandbox"
)

const (
	testCorp   = "ww0123456789abcdef"
	testAgent  = testCorp + "/1000002"
	otherAgent = testCorp + "/1000003"

	otherSecret = "sentinel-secret-of-another-agent-0123456"
)

// useWeCom has the tests run for WeCom until the test ends.
func useWeCom(t *testing.T) {
	was, appID, other, source, path, endpoint := testPlatform, testAppID, otherAppID, testSource, testTokenPath, testTokenEndpoint
	t.Cleanup(func() {
		testPlatform, testAppID, otherAppID, testSource, testTokenPath, testTokenEndpoint = was, appID, other, source, path, endpoint
	})
	testPlatform, testAppID, otherAppID = platform.WeCom, testAgent, "ww2"
	testSource, testTokenPath, testTokenEndpoint = "wecom", platform.WeCom.TokenPath, sandbox.CorpToken
}

// notForWeCom are the tests that are not run for WeCom, and why.
var notForWeCom = map[string]string{
	"TestOnWeCom":             "is this",
	"TestWeComFiles":          "is WeCom's own",
	"TestWeComAgents":         "is WeCom's own",
	"TestWeComErrors":         "is WeCom's own",
	"TestWeComFleet":          "is WeCom's own",
	"TestVideoURLIsNotCached": "video_url is WeChat's own",

	// these name the platforms themselves, or know of none
	"TestWeComConfigurations":               "has both",
	"TestFleetOfProcesses":                  "has both",
	"TestExamples":                          "has both",
	"TestCommand":                           "has both",
	"TestCaddyfileAdaptsToJSON":             "is grammar",
	"TestDirectiveStandsBeforeReverseProxy": "is grammar",
	"TestBadCaddyfiles":                     "is grammar",
	"TestEmptyBlocks":                       "is grammar",
	"TestBadConfigsAreFoundByValidate":      "is grammar",
	"TestNoBodyAnewForWhatWasNotKept":       "knows no platform",
	"TestExamine":                           "knows no platform",
	"TestExamineKeepsErrors":                "knows no platform",
	"TestExamineAllocatesLittle":            "knows no platform",
	"TestDocumentsAreShort":                 "is about documents",
	"TestLinksLeadSomewhere":                "is about documents",
	"TestChinesePagesLinkToChinesePages":    "is about documents",
	"TestBothLanguagesHaveTheSame":          "is about documents",
	"TestDocumentsNameWhatThereIs":          "is about documents",
	"TestDependabotKnowsEveryModule":        "is about documents",
	"TestDocumentsCommandsAreRun":           "is about documents",
	"TestDocumentsConfigurations":           "is about documents",
	"TestDocumentsGo":                       "is about documents",
	"TestREADMEHasEveryOption":              "is about documents",
}

// What is not about one platform's own words holds for both: every test of the package
// is run for WeCom, too, but for those of the table.
func TestOnWeCom(t *testing.T) {
	useWeCom(t)
	left := maps.Clone(notForWeCom)
	for _, test := range everyTest {
		if _, ok := left[test.Name]; ok {
			delete(left, test.Name)
			continue
		}
		t.Run(strings.TrimPrefix(test.Name, "Test"), test.F)
	}
	for name := range left {
		t.Errorf("there is no %s", name)
	}
}

// wecomBlock is a directive with two agents of one corp.
func wecomBlock(upstream string, options ...string) string {
	app := func(id, secret string) string { return "app " + id + " " + secret + " {\ntoken wecom\n}\n" }
	return "wechat_media " + upstream + " {\n" + app(testAgent, "{env.TEST_WECHAT_SECRET}") + app(otherAgent, "{env.TEST_OTHER_SECRET}") + "types image voice video file\n" + strings.Join(options, "\n") + "\n}"
}

func startWeCom(t testing.TB) *wechat {
	t.Helper()
	t.Setenv("TEST_OTHER_SECRET", otherSecret)
	w := &wechat{t: t, Server: sandbox.New(sandbox.Options{Corps: map[string]string{testAgent: testSecret, otherAgent: otherSecret}, KeepAlive: true})}
	w.URL = upstream(t, w).URL
	return w
}

// namedForm is a form whose file has a name that is not ASCII, as it is.
func namedForm(t testing.TB, filename string, content []byte) (contentType string, body []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	part, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="media"; filename="` + filename + `"`}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = part.Write(content)
	_ = w.Close()
	return w.FormDataContentType(), buf.Bytes()
}

// Files of WeCom: large ones up and down, with Chinese names, in ranges.
func TestWeComFiles(t *testing.T) {
	w := startWeCom(t)
	g := startGateway(t, wecomBlock(w.URL, "app_selector {header.X-Agent}"))
	content := randomBytes(t, 19<<20)
	const filename = "合同 第一版.pdf"
	contentType, body := namedForm(t, filename, content)
	res, reply := g.do("POST", "/media?type=file", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body))
	id := uploaded(t, res, reply)
	if got := w.only(t, "/cgi-bin/media/upload"); !bytes.Equal(got.body, body) {
		t.Error("the bytes differ on the way up")
	}
	res, back := g.get("/media/" + id)
	if sha256.Sum256(back) != sha256.Sum256(content) || !strings.Contains(res.Header.Get("Content-Disposition"), `filename="`+filename+`"`) ||
		!strings.Contains(res.Header.Get("Content-Disposition"), "filename*=") {
		t.Errorf("%d bytes came back, %q", len(back), res.Header.Get("Content-Disposition"))
	}
	res, back = g.do("GET", "/media/"+id, http.Header{"Range": {"bytes=1000-1999"}}, nil)
	if res.StatusCode != 206 || !bytes.Equal(back, content[1000:2000]) || res.Header.Get("Content-Range") == "" {
		t.Errorf("a range: %d, %d bytes, %v", res.StatusCode, len(back), res.Header)
	}

	contentType, body = namedForm(t, "a.pdf", make([]byte, 21<<20))
	if res, reply := g.do("POST", "/media?type=file", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body)); res.StatusCode != 413 {
		t.Errorf("21 MiB: %d %s", res.StatusCode, reply)
	}
	contentType, body = namedForm(t, "a.pdf", []byte("12345"))
	if res, reply := g.do("POST", "/media?type=file", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body)); strings.Contains(string(reply), `"media_id":"`) {
		t.Errorf("5 bytes: %d %s", res.StatusCode, reply)
	}
	if res, reply := g.do("POST", "/media?type=thumb", http.Header{"Content-Type": {contentType}}, bytes.NewReader(body)); res.StatusCode != 400 || !strings.Contains(string(reply), "40004") {
		t.Errorf("a thumb: %d %s", res.StatusCode, reply)
	}
	// what is larger than 20 MiB is only to be had in ranges
	content = randomBytes(t, 21<<20)
	large, err := w.AddMedia(testAgent, "file", "a.bin", content)
	if err != nil {
		t.Fatal(err)
	}
	if res, reply := g.get("/media/" + large); res.StatusCode != 200 || !strings.Contains(string(reply), "830002") {
		t.Errorf("21 MiB at once: %d %.100s", res.StatusCode, reply)
	}
	res, back = g.do("GET", "/media/"+large, http.Header{"Range": {"bytes=0-1048575"}}, nil)
	if res.StatusCode != 206 || !bytes.Equal(back, content[:1<<20]) {
		t.Errorf("a part of 21 MiB: %d, %d bytes", res.StatusCode, len(back))
	}
}

// Two agents of one corp never use each other's token, and each heals by itself.
func TestWeComAgents(t *testing.T) {
	w := startWeCom(t)
	g := startGateway(t, wecomBlock(w.URL, "app_selector {header.X-Agent}", "translate_status"))
	agents := []string{testAgent, otherAgent}
	tokens := func() map[string]string {
		return map[string]string{testAgent: w.CurrentToken(testAgent), otherAgent: w.CurrentToken(otherAgent)}
	}
	use := func(selector, agent string) {
		t.Helper()
		w.reset()
		if res, reply := g.do("GET", "/media/none", http.Header{"X-Agent": {selector}}, nil); res.StatusCode != 404 {
			t.Errorf("%s: %d %s", selector, res.StatusCode, reply)
		}
		for _, s := range w.requests() {
			for id, token := range tokens() {
				if strings.Contains(s.uri, token) && id != agent && s.path != testTokenPath && !strings.HasSuffix(s.path, "token") {
					t.Errorf("%s used the token of %s", selector, id)
				}
			}
		}
	}
	for _, agent := range agents {
		use(agent, agent)
		use(strings.TrimPrefix(agent, testCorp+"/"), agent)
	}
	use("", testAgent)
	if res, _ := g.do("GET", "/media/none", http.Header{"X-Agent": {testCorp}}, nil); res.StatusCode != 400 {
		t.Errorf("the corp alone, which has two agents: %d", res.StatusCode)
	}

	before := tokens()
	w.RevokeTokens(testAgent)
	calls := w.count(platform.WeCom.TokenPath)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { g.do("GET", "/media/none", nil, nil) })
	}
	all.Wait()
	if n := w.count(platform.WeCom.TokenPath) - calls; n != 1 {
		t.Errorf("%d calls for one revoked token", n)
	}
	if after := tokens(); after[testAgent] == before[testAgent] || after[otherAgent] != before[otherAgent] {
		t.Error("the wrong token was replaced")
	}
}

// WeCom's own errors: the address that is not trusted, concurrency, what is too large.
func TestWeComErrors(t *testing.T) {
	w := startWeCom(t)
	g := startGateway(t, wecomBlock(w.URL, "translate_status", "sdk_tokens"))
	for code, status := range map[int]int{60020: 403, 45009: 429, 45033: 429, 48001: 403, 830002: 413, 40007: 404} {
		w.Refuse(sandbox.MediaGet, code, 1)
		if res, reply := g.get("/media/" + strings.Repeat("a", 65)); res.StatusCode != status {
			t.Errorf("%d: %d %s", code, res.StatusCode, reply)
		}
	}
	w.RevokeTokens(testAgent)
	g.get("/media/none")
	for _, want := range []string{"WeCom refuses media calls: add 127.0.0.1 to the trusted addresses of the agent", "for this minute or hour",
		"see what the account is allowed in the WeCom admin", "WeCom rejected the access token"} {
		if !strings.Contains(loggedSoFar(), want) {
			t.Errorf("the log does not say: %s", want)
		}
	}
	if strings.Contains(loggedSoFar(), "WeChat re") || strings.Contains(loggedSoFar(), "WeChat admin") {
		t.Error("the log speaks of WeChat")
	}
	res, reply := g.get(platform.WeCom.TokenPath + "?corpid=a&corpsecret=b")
	var answer struct {
		Errcode     *int   `json:"errcode"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(reply, &answer); err != nil || res.StatusCode != 200 || answer.Errcode == nil || answer.AccessToken != placeholderToken {
		t.Errorf("the façade answers %d %s", res.StatusCode, reply)
	}
	if res, _ := g.get("/cgi-bin/token?appid=a&secret=b"); res.StatusCode != 404 {
		t.Errorf("WeChat's token path: %d", res.StatusCode)
	}
}

func TestWeComConfigurations(t *testing.T) {
	t.Setenv("SECRET", "s")
	for block, want := range map[string]string{
		"app ww1 {env.SECRET} {\ntoken wecom\n}\napp wx1 {env.SECRET}":                                         "apps of WeChat and of WeCom cannot stand in one directive; write one for each",
		"app ww1 {env.SECRET} {\ntoken wecom\n}\ntypes thumb":                                                  `types: "thumb" is not a media type of WeCom; use image, voice, video, file`,
		"app wx1 {env.SECRET}\ntypes file":                                                                     `types: "file" is not a media type of WeChat; use image, voice, video, thumb`,
		"app ww1/1 {env.SECRET} {\ntoken wecom\n}\napp ww1/1 {env.SECRET} {\ntoken wecom\n}":                   "app ww1/1 is configured twice",
		"app ww1/1 {env.SECRET} {\ntoken wecom\n}\napp ww1/2 {env.SECRET} {\ntoken wecom\n}\ntypes image file": "",
		"app ww1 {env.SECRET}":                   "an app_id of WeChat begins with wx; write: app <app_id> [<app_secret>]; one of WeCom needs a token source of WeCom's, in a block: token wecom",
		"app wx1 {env.SECRET} {\ntoken wecom\n}": "", // an older corp
	} {
		err := validate(t, ":8080 {\nwechat_media {\n"+block+"\n}\n}\n")
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v, want %q", block, err, want)
		}
	}
	// without upstreams, it is WeCom's own host
	h := provisioned(t, "http.handlers.wechat_media", `{"reverse_proxy":{"transport":{"protocol":"wechat",
		"apps":[{"app_id":"ww1","app_secret":"{env.TEST_WECHAT_SECRET}","token":{"source":"wecom"}}]}}}`).(*Handler)
	if len(h.proxy.Upstreams) != 1 || h.proxy.Upstreams[0].Dial != platform.WeCom.Hosts[0] || !h.transport.TLSEnabled() {
		t.Errorf("upstreams %v", h.proxy.Upstreams)
	}
}

// A fleet shares the token of each agent: a gateway that starts when others have them
// asks for none.
func TestWeComFleet(t *testing.T) {
	w := startWeCom(t)
	site := strings.ReplaceAll(wecomBlock(w.URL, "app_selector {header.X-Agent}"), "token wecom\n", "token wecom\nshare_token\n")
	storage := "storage file_system " + storageDir(t)
	for start := range 3 {
		g := startGatewayWith(t, storage, site)
		for _, agent := range []string{testAgent, otherAgent} {
			if _, reply := g.do("GET", "/media/none", http.Header{"X-Agent": {agent}}, nil); !strings.Contains(string(reply), "40007") {
				t.Errorf("start %d, %s: %s", start, agent, reply)
			}
		}
		g.load("respond gone") // and so the next one finds nothing but the storage
	}
	if n := w.count(platform.WeCom.TokenPath); n != 2 {
		t.Errorf("%d calls for two agents", n)
	}
}
