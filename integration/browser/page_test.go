package browser

// What must hold on the page.

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"image"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// checkEqual holds the page to its word that a picture came back the same.
func checkEqual(t *testing.T, g *example, o outcome, file string, content []byte) {
	t.Helper()
	if o.Phase != "equal" || !strings.Contains(o.Message, "came back the same, byte for byte") || o.Reason != "" || o.Said != "" {
		t.Fatalf("the page: %+v", o)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(content)); o.SHA256 != want {
		t.Errorf("the page has SHA-256 %s of %s, which has %s", o.SHA256, file, want)
	}
	if back := g.download(t, o.MediaID); !bytes.Equal(back, content) {
		t.Errorf("%s: %d bytes went up, %d others came back", file, len(content), len(back))
	}
	config, _, err := image.DecodeConfig(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if o.Width != config.Width || o.Height != config.Height {
		t.Errorf("the picture shown is %d by %d, not %d by %d", o.Width, o.Height, config.Width, config.Height)
	}
}

func TestPicturesComeBack(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	p.screenshot("start")
	for _, tc := range []struct {
		name string
		size int
	}{
		{"evening.jpg", 300_000},
		{"hills.gif", 300_000},
		{"evening-5mb.png", 5 << 20},
		{"evening-5mb.jpg", 5 << 20},
	} {
		file, content := picture(t, tc.name, tc.size)
		p.choose(file)
		checkEqual(t, g, p.await(file), file, content)
		p.screenshot("done-" + strings.ReplaceAll(tc.name, ".", "-"))
	}
	file, content := picture(t, "evening.jpg", 300_000)
	p.drag(file, func() {
		p.wait(`document.getElementById("drop").className === "over"`)
		p.screenshot("drag")
	})
	p.wait(`document.getElementById("drop").className === ""`)
	checkEqual(t, g, p.await(file), file, content)
}

// A picture that is another one when it comes back must not pass for the same.
func TestADifferentPicture(t *testing.T) {
	p := open(t, startExample(t).url, "en-US")
	_, other := picture(t, "other.jpg", 100_000)
	call(p, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{URLPattern: "*/media/*"}}})
	paused := chromedp.Events(p.ctx, fetch.RequestPaused)
	file, content := picture(t, "photo.jpg", 100_000)
	p.choose(file)
	for e, err := range paused {
		if err != nil {
			t.Fatal(err)
		}
		call(p, fetch.FulfillRequest, fetch.FulfillRequestParams{RequestID: e.RequestID, ResponseCode: http.StatusOK, Body: other,
			ResponseHeaders: []*fetch.HeaderEntry{{Name: "Content-Type", Value: "image/jpeg"}}})
		break
	}
	o := p.await(file)
	if o.Phase != "different" || o.Message != "photo.jpg came back, but not the same" || o.SHA256 == fmt.Sprintf("%x", sha256.Sum256(content)) {
		t.Errorf("the page: %+v", o)
	}
	p.screenshot("different")
}

// An upload that takes its time, and is then left for another file.
func TestProgressIsShown(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	p.eval(`
		const bar = document.getElementById("progress")
		window.progress = []
		new MutationObserver(() => bar.parentElement.hidden || window.progress.push(bar.value))
			.observe(bar, {attributeFilter: ["value"]})`)
	call(p, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*network.Conditions{{DownloadThroughput: -1, UploadThroughput: 2 << 20}},
	})
	file, content := picture(t, "slow.jpg", 5<<20)
	p.choose(file)
	p.wait(`document.getElementById("progress").value > 0.3`)
	if text := p.text("message"); text != "Sending slow.jpg …" {
		t.Errorf("meanwhile the page says: %s", text)
	}
	p.screenshot("progress")
	checkEqual(t, g, p.await(file), file, content)
	progress := value[[]float64](p, "window.progress")
	between := 0
	for _, v := range progress {
		if v > 0 && v < 1 {
			between++
		}
	}
	if between < 5 || !slices.IsSorted(progress) || progress[len(progress)-1] != 1 {
		t.Errorf("progress was %v", progress)
	}
	if !value[bool](p, `document.getElementById("progress").parentElement.hidden`) {
		t.Error("the progress stays when all is done")
	}

	p.choose(file)
	p.wait(`document.body.className === "sending" && document.getElementById("progress").value > 0.1`)
	next, content := picture(t, "next.png", 300_000)
	p.choose(next)
	checkEqual(t, g, p.await(next), next, content)
	p.expect("request failed: net::ERR_ABORTED") // which is not in the console
}

// Refusals that a person runs into.
func TestRefusals(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	photo, content := picture(t, "photo.jpg", 300_000)
	noise := make([]byte, 20<<20)
	_, _ = rand.Read(noise)
	folder := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, file, fault    string
		message, reason, say string
		drop                 bool
		status               int // of the gateway's answer, if there is one
	}{
		{name: "text", file: write(t, "notes.txt", []byte("not a picture\n")),
			message: "notes.txt was not accepted", reason: "WeChat takes pictures as PNG, JPEG or GIF", say: "errcode 40005: invalid file type", status: 400},
		{name: "text-dropped", file: write(t, "letter.md", []byte("not a picture\n")), drop: true,
			message: "letter.md was not accepted", reason: "WeChat takes pictures as PNG, JPEG or GIF", say: "errcode 40005: invalid file type", status: 400},
		{name: "20mb", file: write(t, "20mb.jpg", noise),
			message: "20mb.jpg was not accepted", reason: "The file is too large, so this page has not sent it."},
		{name: "20mb-dropped", file: write(t, "20mb.png", noise), drop: true,
			message: "20mb.png was not accepted", reason: "The file is too large, so this page has not sent it."},
		{name: "empty", file: write(t, "empty.png", nil),
			message: "empty.png was not accepted", reason: "There is nothing in the file", say: "errcode 44001: empty media data", status: 400},
		{name: "folder", file: folder, drop: true,
			message: "folder was not accepted", reason: "This browser cannot read the file. Is it a folder"},
		{name: "busy", file: photo, fault: "busy?endpoint=upload",
			message: "photo.jpg was not accepted", reason: "WeChat is busy", say: "errcode -1: system error", status: 503},
		{name: "not-fetched", file: photo, fault: "busy?endpoint=get",
			message: "photo.jpg was uploaded, but did not come back", reason: "WeChat is busy", say: "errcode -1: system error", status: 503},
	} {
		if tc.fault != "" {
			g.fault(t, tc.fault)
		}
		if tc.drop {
			p.drag(tc.file, func() {})
		} else {
			p.choose(tc.file)
		}
		o := p.await(tc.file)
		if o.Phase != "failed" || o.Message != tc.message || !strings.HasPrefix(o.Reason, tc.reason) || !strings.HasPrefix(o.Said, tc.say) || tc.say == "" && o.Said != "" || o.MediaID != "" {
			t.Errorf("%s: %+v", tc.name, o)
		}
		p.screenshot("refused-" + tc.name)
		if tc.status != 0 {
			p.expectStatus(g, tc.status)
		}
		p.choose(photo)
		p.wait(`document.body.className === "equal"`) // the page goes on
		checkEqual(t, g, p.await(photo), photo, content)
	}
}

// What is no picture, but is called one, is WeChat's to find out. It looks at no more
// than the beginning.
func TestNoPictureUnderThePicturesName(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	file := write(t, "text.jpg", []byte("not a picture\n"))
	p.choose(file)
	if o := p.await(file); o.Phase != "failed" || o.Message != "text.jpg was not accepted" || !strings.HasPrefix(o.Said, "errcode 40005: invalid file type") {
		t.Errorf("a text: %+v", o)
	}
	p.expectStatus(g, 400)
	file = write(t, "broken.jpg", []byte("\xff\xd8\xff and no picture\n"))
	p.choose(file)
	if o := p.await(file); o.Phase != "equal" {
		t.Fatalf("a broken picture: %+v", o)
	}
	p.wait(`document.getElementById("reason").textContent === "This browser cannot show it as a picture."`)
	p.screenshot("no-picture")
}

// A gateway with a lower limit than the page knows of refuses with 413 while the
// upload is on its way.
func TestTooLargeForTheGateway(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	noise := make([]byte, 20<<20)
	_, _ = rand.Read(noise)
	file := write(t, "20mb.jpg", noise)
	p.eval(`document.getElementById("file").dataset.maxSize = 1e9`)
	p.choose(file)
	o := p.await(file)
	if o.Phase != "failed" || o.Message != "20mb.jpg was not accepted" ||
		!strings.HasPrefix(o.Reason, "The file is too large. WeChat takes") || !strings.HasPrefix(o.Said, "errcode 45001: media size out of limit") {
		t.Errorf("the page: %+v", o)
	}
	p.screenshot("refused-413")
	p.expectStatus(g, 413)
}

func TestConnectionsThatFail(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	file, _ := picture(t, "photo.jpg", 300_000)

	g.fault(t, "cut?endpoint=get&after=1000")
	p.choose(file)
	o := p.await(file)
	if o.Phase != "failed" || o.Message != "photo.jpg was uploaded, but did not come back" || !strings.Contains(o.Reason, "failed or broke off") {
		t.Errorf("a download that breaks off: %+v", o)
	}
	p.expect("request failed: net::ERR_", "network error: Failed to load resource: net::ERR_")

	g.Stop()
	next := write(t, "next.jpg", []byte("x"))
	p.choose(next)
	if o := p.await(next); o.Phase != "failed" || o.Message != "next.jpg was not accepted" || !strings.HasSuffix(o.Reason, "Is the gateway running?") {
		t.Errorf("no gateway: %+v", o)
	}
	p.screenshot("unreachable")
	p.expect("request failed: net::ERR_", "network error: Failed to load resource: net::ERR_")
}

func TestKeyboard(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	call(p, cdppage.SetInterceptFileChooserDialog, cdppage.SetInterceptFileChooserDialogParams{Enabled: true})
	opened := make(chan *cdppage.EventFileChooserOpened, 1)
	if err := chromedp.Listen(p.ctx, func(event any) {
		if e, ok := event.(*cdppage.EventFileChooserOpened); ok {
			opened <- e
		}
	}); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Tab))
	if id := value[string](p, "document.activeElement.id"); id != "file" {
		t.Fatalf("the second stop of the Tab key is %q", id)
	}
	p.do(chromedp.KeyEvent(kb.Enter))
	file, content := picture(t, "photo.jpg", 300_000)
	call(p, dom.SetFileInputFiles, dom.SetFileInputFilesParams{Files: []string{file}, BackendNodeID: (<-opened).BackendNodeID})
	checkEqual(t, g, p.await(file), file, content)
}

// Paste a picture that was copied as one.
func TestPaste(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	allowClipboard(p, g)
	p.eval(`(async () => {
		const canvas = new OffscreenCanvas(80, 60)
		canvas.getContext("2d").fillRect(10, 10, 40, 30)
		await navigator.clipboard.write([new ClipboardItem({ "image/png": canvas.convertToBlob() })])
	})()`)
	for _, step := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeRawKeyDown, input.DispatchKeyEventTypeKeyUp} {
		call(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{Type: step, Modifiers: int64(chromedp.ModifierCtrl),
			Key: "v", Code: "KeyV", WindowsVirtualKeyCode: 'V', Commands: []string{"paste"}})
	}
	o := p.await("image.png")
	checkEqual(t, g, o, "image.png", g.download(t, o.MediaID))
	if o.Width != 80 || o.Height != 60 {
		t.Errorf("what was pasted is %d by %d", o.Width, o.Height)
	}
}

func TestChinese(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "zh-CN")
	p.screenshot("zh-start")
	file, _ := picture(t, "晚霞.jpg", 300_000)
	p.choose(file)
	if o := p.await(file); o.Phase != "equal" || o.Message != "晚霞.jpg 已取回，逐字节相同" {
		t.Errorf("the page: %+v", o)
	}
	p.screenshot("zh-done")
	notes := write(t, "笔记.txt", []byte("text"))
	p.choose(notes)
	if o := p.await(notes); o.Message != "笔记.txt 未被接受" || !strings.HasPrefix(o.Reason, "微信只接受 PNG、JPEG 或 GIF 图片") || !strings.HasPrefix(o.Said, "errcode 40005: invalid file type") {
		t.Errorf("the page: %+v", o)
	}
	p.screenshot("zh-refused")
	p.expectStatus(g, 400)

	p.do(chromedp.Click(chromedp.ID("language")))
	if got := value[string](p, "document.documentElement.lang"); got != "en" || !strings.HasSuffix(p.text("message"), "was not accepted") {
		t.Errorf("in English the page has lang %s and says %s", got, p.text("message"))
	}
	p.do(chromedp.Reload())
	p.wait(`document.documentElement.lang === "en"`)
	p.do(chromedp.Click(chromedp.ID("language")))
	p.wait(`document.documentElement.lang === "zh"`)
}

// Both languages have words for everything.
func TestTexts(t *testing.T) {
	p := open(t, startExample(t).url, "fr")
	if got := value[string](p, "document.documentElement.lang"); got != "en" {
		t.Errorf("French readers get %s", got)
	}
	missing := value[[]string](p, `(async () => {
		const { texts, errorOf } = await import("/texts.js")
		const keys = (o, path = "") => Object.entries(o).flatMap(([k, v]) => typeof v === "object" ? keys(v, path + k + ".") : [path + k])
		const [en, zh] = [keys(texts.en), keys(texts.zh)]
		const used = [...document.querySelectorAll("[data-text]")].map(e => e.dataset.text)
		return [
			...en.filter(k => !zh.includes(k)), ...zh.filter(k => !en.includes(k)), ...used.filter(k => !en.includes(k)),
			...Object.values(errorOf).filter(k => !en.includes("errors." + k)),
		]
	})()`)
	if len(missing) > 0 {
		t.Errorf("no words for %q", missing)
	}
}

// The page may load and send nothing but what is its own.
func TestNothingFromElsewhere(t *testing.T) {
	g := startExample(t)
	res, err := http.Get(g.url)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if policy := res.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", policy)
	}
	p := open(t, g.url, "en-US")
	if !value[bool](p, `fetch(document.querySelector("link[rel=icon]").href).then(r => r.ok)`) {
		t.Error("browsers that show the icon do not find it")
	}
	blocked := value[bool](p, fmt.Sprintf(`fetch("%s/sandbox/status", {mode: "no-cors"}).then(() => false, () => true)`, g.sandbox))
	if !blocked {
		t.Error("the page can send to elsewhere")
	}
	p.expect("security error: Connecting to '"+g.sandbox, "javascript error: Fetch API cannot load "+g.sandbox)
	loaded := value[[]string](p, `performance.getEntriesByType("resource").map(e => e.name)`)
	for _, url := range loaded {
		if !strings.HasPrefix(url, g.url+"/") && !strings.HasPrefix(url, g.sandbox) {
			t.Errorf("the page loads %s", url)
		}
	}
	if len(loaded) < 4 {
		t.Errorf("the page loads only %q", loaded)
	}
}

// For people to look at, and for a scroll bar that must not be there.
func TestNightAndSmallScreens(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	file, _ := picture(t, "evening.jpg", 300_000)
	notes := write(t, "a-name-that-is-rather-long-for-a-telephone-and-has-no-place-to-break.txt", []byte("text"))
	for _, scheme := range []string{"light", "dark"} {
		call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		for _, width := range []int64{1000, 390, 320} {
			p.do(chromedp.EmulateViewport(width, 900))
			for _, f := range []string{file, notes} {
				p.choose(f)
				o := p.await(f)
				p.screenshot(fmt.Sprintf("%s-%d-%s", scheme, width, o.Phase))
				if f == notes {
					p.expectStatus(g, 400)
				}
				if over := value[int](p, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
					t.Errorf("at a width of %d the page, %s, is %d too wide", width, o.Phase, over)
				}
			}
		}
	}
}
