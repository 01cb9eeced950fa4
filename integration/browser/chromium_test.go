package browser

// The page in Chromium: what a person does on it and sees, and what the console
// says.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long anything on the page may take.
const patience = time.Minute

type page struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex
	complaints []string // of the console, and requests that failed
}

// open shows the page in a browser of its own, whose user reads the language.
func open(t *testing.T, url, language string) *page {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("looking for chromium, Debian's package of that name: %v", err)
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium),
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("accept-lang", language),
		chromedp.WindowSize(1000, 1100))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	p := &page{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	t.Cleanup(func() {
		p.eval(`new Promise(done => setTimeout(done, 100))`) // for what comes late
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, complaint := range p.complaints {
			t.Errorf("the console: %s", complaint)
		}
		_ = chromedp.Cancel(ctx)
	})
	call(p, network.Enable, network.EnableParams{})
	call(p, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	p.do(chromedp.Navigate(url))
	p.wait(`document.querySelector("#curl").textContent !== ""`)
	return p
}

// hear collects what a person would see in red or yellow in the developer tools.
func (p *page) hear(event any) {
	var complaint string
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		if slices.Contains([]string{"error", "warning", "assert"}, string(e.Type)) {
			complaint = fmt.Sprintf("console.%s", e.Type)
			for _, arg := range e.Args {
				complaint += " " + arg.Description + string(arg.Value)
			}
		}
	case *runtime.EventExceptionThrown:
		complaint = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			complaint += " " + e.ExceptionDetails.Exception.Description
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning {
			complaint = fmt.Sprintf("%s %s: %s %s", e.Entry.Source, e.Entry.Level, e.Entry.Text, e.Entry.URL)
		}
	case *network.EventLoadingFailed:
		complaint = fmt.Sprintf("request failed: %s", e.ErrorText)
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 {
			complaint = fmt.Sprintf("status %d: %s", e.Response.Status, e.Response.URL)
		}
	}
	if complaint != "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.complaints = append(p.complaints, complaint)
	}
}

// expect waits for complaints that there must be, and forgets them.
func (p *page) expect(complaints ...string) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); len(complaints) > 0; time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		i := slices.IndexFunc(p.complaints, func(c string) bool { return strings.HasPrefix(c, complaints[0]) })
		if i >= 0 {
			p.complaints, complaints = slices.Delete(p.complaints, i, i+1), complaints[1:]
		}
		p.mu.Unlock()
		if i < 0 && time.Now().After(deadline) {
			p.t.Fatalf("the console does not say %q", complaints[0])
		}
	}
}

// expectStatus waits until the console has noted the status of an answer from the gateway,
// as it does with every error, and forgets it.
func (p *page) expectStatus(g *example, status int) {
	p.t.Helper()
	p.expect(fmt.Sprintf("status %d: %s/media", status, g.url),
		fmt.Sprintf("network error: Failed to load resource: the server responded with a status of %d", status))
}

func call[P, R any](p *page, command cdp.Command[P, R], params P) R {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	result, err := chromedp.Call(ctx, command, params)
	if err != nil {
		p.t.Fatalf("%s: %v", command.Method, err)
	}
	return result
}

func (p *page) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// value is what a JavaScript expression comes to.
func value[T any](p *page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

func (p *page) wait(expression string) {
	p.t.Helper()
	p.do(chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience)))
}

func (p *page) text(id string) string {
	p.t.Helper()
	return value[string](p, fmt.Sprintf("document.getElementById(%q).textContent", id))
}

// choose picks a file as the file chooser does.
func (p *page) choose(file string) {
	p.t.Helper()
	p.do(chromedp.SetUploadFiles(chromedp.ID("file"), []string{file}))
}

// drag holds a file over the place for it, and drops it there.
func (p *page) drag(file string, over func()) {
	p.t.Helper()
	at := value[struct{ X, Y float64 }](p, `(box => ({X: box.x + box.width / 2, Y: box.y + box.height / 2}))(
		document.getElementById("drop").getBoundingClientRect())`)
	for _, step := range []input.DispatchDragEventType{input.DispatchDragEventTypeDragEnter,
		input.DispatchDragEventTypeDragOver, input.DispatchDragEventTypeDrop} {
		if step == input.DispatchDragEventTypeDrop {
			over()
		}
		call(p, input.DispatchDragEvent, input.DispatchDragEventParams{Type: step, X: at.X, Y: at.Y,
			Data: &input.DragData{Items: []*input.DragDataItem{}, Files: []string{file}, DragOperationsMask: 1}})
	}
}

// outcome is how an upload ended, as the page tells it.
type outcome struct {
	Phase, Message, Reason, Said string
	MediaID, SHA256              string
	Width, Height                int // of the picture that is shown
}

// await waits for the end of a file's way.
func (p *page) await(file string) outcome {
	p.t.Helper()
	p.wait(fmt.Sprintf(`["equal", "different", "failed"].includes(document.body.className) &&
		document.getElementById("message").textContent.includes(%q)`, filepath.Base(file)))
	return value[outcome](p, `(async () => {
		const text = id => document.getElementById(id).textContent
		const result = document.getElementById("result"), picture = document.getElementById("picture")
		if (!result.hidden) await picture.decode().catch(() => {})
		return {
			Phase: document.body.className, Message: text("message"), Reason: text("reason"), Said: text("said"),
			MediaID: result.hidden ? "" : text("media_id"), SHA256: result.hidden ? "" : text("sha256"),
			Width: result.hidden ? 0 : picture.naturalWidth, Height: result.hidden ? 0 : picture.naturalHeight,
		}
	})()`)
}

// screenshot writes the whole page into the directory $SCREENSHOTS, if it is set.
func (p *page) screenshot(name string) {
	p.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	// what has focus has a ring, and a picture takes a moment
	p.eval(`document.activeElement.blur(); new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))`)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) eval(expression string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](expression, chromedp.EvalAwaitPromise)); err != nil {
		p.t.Fatalf("%s: %v", strings.TrimSpace(expression), err)
	}
}
