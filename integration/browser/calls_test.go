package browser

// The calls that the page shows, for people to copy.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
)

func TestCalls(t *testing.T) {
	g := startExample(t)
	p := open(t, g.url, "en-US")
	allowClipboard(p, g)
	for _, name := range []string{"photo.jpg", "晚霞.png", `it's "one"; a, b\c $HOME 1.jpg`} {
		file, content := picture(t, name, 100_000)
		p.choose(file)
		p.wait(fmt.Sprintf(`document.body.className === "equal" && document.getElementById("picture").alt === %q`, name))
		copied := make(map[string]string)
		for _, id := range []string{"media_id", "curl", "wx-upload", "wx-download"} {
			button := fmt.Sprintf("[data-copy=%s]", id)
			p.do(chromedp.Click(chromedp.CSS(button)))
			p.wait(fmt.Sprintf(`document.querySelector("%s").textContent === "Copied"`, button))
			if copied[id] = value[string](p, "navigator.clipboard.readText()"); copied[id] != p.text(id) {
				t.Errorf("copied %q, shown is %q", copied[id], p.text(id))
			}
		}
		runCurl(t, copied["curl"], file, content)
		runWx(t, p, g, copied, name, content)
	}
}

// allowClipboard lets the test read the clipboard, and write to it, by script.
func allowClipboard(p *page, g *example) {
	p.t.Helper()
	for _, permission := range []string{"clipboard-read", "clipboard-write"} {
		_, err := chromedp.CallBrowser(p.ctx, browser.SetPermission, browser.SetPermissionParams{
			Permission: &browser.PermissionDescriptor{Name: permission}, Setting: browser.PermissionSettingGranted, Origin: g.url})
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// runCurl pastes the lines into a shell, where the picture is.
func runCurl(t *testing.T, lines, file string, content []byte) {
	t.Helper()
	if filepath.Base(file) == "photo.jpg" && !strings.HasPrefix(lines, "curl -F media=@photo.jpg http://localhost:") {
		t.Errorf("the lines are not the README's: %s", lines)
	}
	shell := exec.Command("bash", "-ec", lines)
	shell.Dir = filepath.Dir(file)
	out, err := shell.Output()
	if err != nil {
		t.Fatalf("%s: %v", lines, err)
	}
	var reply struct {
		MediaID string `json:"media_id"`
	}
	if err := json.Unmarshal(out, &reply); err != nil || reply.MediaID == "" {
		t.Errorf("%s: %s", lines, out)
	}
	back, err := os.ReadFile(filepath.Join(shell.Dir, "back"+filepath.Ext(file)))
	if err != nil || !bytes.Equal(back, content) {
		t.Errorf("%s: %d bytes of %d came back, %v", lines, len(back), len(content), err)
	}
}

// runWx runs the mini program's calls with a wx that notes them, and does what
// WeChat's would.
func runWx(t *testing.T, p *page, g *example, code map[string]string, name string, content []byte) {
	t.Helper()
	type wxCall struct{ Function, URL, FilePath, Name string }
	run := func(code string) wxCall {
		return value[wxCall](p, `(() => {
			let call
			const note = Function => ({ url, filePath, name }) => call = { Function, URL: url, FilePath: filePath ?? "", Name: name ?? "" }
			const wx = { env: { USER_DATA_PATH: "wxfile://usr" }, uploadFile: note("uploadFile"), downloadFile: note("downloadFile") }
			`+code+`
			return call
		})()`)
	}
	up := run(code["wx-upload"])
	if up != (wxCall{"uploadFile", g.url + "/media", "wxfile://usr/" + name, "media"}) {
		t.Errorf("%s calls %+v", code["wx-upload"], up)
	}
	down := run(code["wx-download"])
	if down != (wxCall{"downloadFile", g.url + "/media/" + code["media_id"], "", ""}) {
		t.Errorf("%s calls %+v", code["wx-download"], down)
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreateFormFile(up.Name, name)
	_, _ = part.Write(content)
	form.Close()
	res, err := http.Post(up.URL, form.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var reply struct {
		MediaID string `json:"media_id"`
	}
	if err := json.NewDecoder(res.Body).Decode(&reply); err != nil || reply.MediaID == "" {
		t.Errorf("wx.uploadFile: %+v, %v", reply, err)
	}
	if !bytes.Equal(g.download(t, reply.MediaID), content) || !bytes.Equal(g.download(t, code["media_id"]), content) {
		t.Error("wx.downloadFile: the bytes differ")
	}
}
