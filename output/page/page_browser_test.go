//go:build browser

package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdp "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// browser is a tab, and what it complained of and asked for.
type browser struct {
	t       *testing.T
	ctx     context.Context
	mu      sync.Mutex
	trouble []string
	fetched []string
}

func open(t *testing.T, html []byte) *browser {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(path, html, 0o644); err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.Flag("disable-dev-shm-usage", true))
	ctx, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(stop)
	b := &browser{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.trouble = append(b.trouble, ev.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			b.trouble = append(b.trouble, fmt.Sprintf("console.%s", ev.Type))
		case *log.EventEntryAdded:
			b.trouble = append(b.trouble, ev.Entry.Text)
		case *cdp.EventJavascriptDialogOpening:
			b.trouble = append(b.trouble, "a dialog: "+ev.Message)
		case *network.EventRequestWillBeSent:
			b.fetched = append(b.fetched, ev.Request.URL)
		}
	})
	url := "file://" + path
	b.run(network.Enable(), log.Enable(), chromedp.Navigate(url), chromedp.WaitReady(`html[data-ready=yes]`))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.trouble) > 0 {
			t.Errorf("the browser complains: %q", b.trouble)
		}
		for _, f := range b.fetched {
			if f != url && !strings.HasPrefix(f, "data:") {
				t.Errorf("the page fetches %s", f)
			}
		}
	})
	return b
}

func (b *browser) run(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// ask returns what an expression is in the page.
func ask[T any](b *browser, expression string) T {
	b.t.Helper()
	var v T
	b.run(chromedp.Evaluate(expression, &v))
	return v
}

// view is what the charts show, in microseconds.
func (b *browser) view() (from, to float64) {
	b.t.Helper()
	if _, err := fmt.Sscan(ask[string](b, `document.documentElement.dataset.view`), &from, &to); err != nil {
		b.t.Fatal(err)
	}
	return from, to
}

// The page of the published trace loads without errors and fetches nothing; the kernel's
// staircase and the first refusal are drawn where they were; zoom, hover, the moment and the
// keyboard work.
func TestPublishedInBrowser(t *testing.T) {
	b := open(t, report(t, published))
	b.run(emulation.SetDeviceMetricsOverride(1280, 900, 1, false))
	// The charts follow a moment later: until then no place on them is where it is going to be.
	wait(b, `document.querySelector(".u-wrap").clientWidth === document.querySelector(".box").clientWidth`)

	// The colours on the canvas are the drawing: a mark of a refusal is where call 5 was.
	from, to := b.view()
	if from >= 0 || to <= 5000 {
		t.Errorf("the charts show %g to %g µs, not all of 0 to 5000", from, to)
	}
	var steps []float64
	json.Unmarshal([]byte(ask[string](b, `JSON.stringify(document.querySelector(".box").steps())`)), &steps)
	if len(steps) != 6 {
		t.Errorf("the first chart has the heights %v, not five steps", steps)
	}

	// Hover: the legend and the hint are about call 5, at 4 ms.
	type point struct{ X, Y float64 }
	at := func(us float64) point {
		return ask[point](b, fmt.Sprintf(`(() => { const o = document.querySelector(".u-over").getBoundingClientRect(); return {X: o.left + o.width * (%g - %g) / %g, Y: o.top + o.height / 2}; })()`, us, from, to-from))
	}
	refused := at(4000)
	b.run(chromedp.MouseEvent("mouseMoved", refused.X+1, refused.Y))
	wait(b, `document.querySelector(".hint").textContent.startsWith("Call 5: perf buffer refused with EPERM, wrong-refusal")`)
	if legend := ask[string](b, `document.querySelector(".u-legend").textContent`); !strings.Contains(legend, "112,998 pages") || !strings.Contains(legend, "12 pages (48 KiB)") {
		t.Errorf("the legend says %q", legend)
	}
	// A click there opens the explanation, and is the moment.
	b.run(chromedp.MouseClickXY(refused.X, refused.Y))
	wait(b, `document.querySelector("#notes .here")?.textContent.includes("112986 of pinned_vm are earlier overcharges") && document.querySelector("#now").textContent === "after 4 ms"`)

	// The holders of another moment, chosen by the keyboard: two buffers after call 2.
	b.run(chromedp.Focus("#moment"), chromedp.KeyEvent(kb.Home), chromedp.KeyEvent(kb.ArrowRight))
	wait(b, `document.querySelector("#holders tbody").textContent === "ilarouter398376456,4936uid 0perf buffer2"`)

	// Zoom by dragging, by keys, by buttons.
	b.run(chromedp.Evaluate(`scrollTo(0, 0)`, nil))
	left, right := at(2500), at(4500)
	b.run(chromedp.MouseEvent("mouseMoved", left.X, left.Y), chromedp.MouseEvent("mousePressed", left.X, left.Y, chromedp.ButtonLeft), chromedp.MouseEvent("mouseMoved", right.X, right.Y, chromedp.ButtonLeft),
		chromedp.MouseEvent("mouseReleased", right.X, right.Y, chromedp.ButtonLeft))
	if from, to := b.view(); from < 2400 || from > 2600 || to < 4400 || to > 4600 {
		t.Errorf("dragged from 2500 to 4500 µs: the charts show %g to %g", from, to)
	}
	b.run(chromedp.Focus(".box"), chromedp.KeyEvent("0"))
	if back, _ := b.view(); back != from {
		t.Errorf("0 does not show all: from %g, not %g", back, from)
	}
	b.run(chromedp.KeyEvent("+"))
	if near, far := b.view(); far-near > .51*(to-from) {
		t.Errorf("+ does not zoom: %g to %g", near, far)
	}
	b.run(chromedp.Click("#whole"))
	if back, _ := b.view(); back != from {
		t.Errorf("the button does not show all: from %g, not %g", back, from)
	}
}

// Hostile names are text: nothing of them runs, and nothing is an element.
func TestHostileInBrowser(t *testing.T) {
	b := open(t, spoiled(t))
	if n := ask[int](b, `document.querySelectorAll("img, b b, svg, script:not([type]) ~ script ~ script ~ script").length`); n != 0 {
		t.Errorf("%d elements of a name", n)
	}
	text := ask[string](b, `document.body.innerText`)
	for _, want := range []string{`</script>`, `<!--<script`, `<img src=x`, `a\u202eb\u2028`, `\xff\xfe`, `"';`} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	for _, never := range []string{"\u202e", "\u2028", "\x1b"} {
		if strings.Contains(text, never) {
			t.Errorf("the page shows %q as it is", never)
		}
	}
}

// The matrix of a check: its filters, a cell's evidence, and hostile texts as text.
func TestCheckInBrowser(t *testing.T) {
	b := open(t, checked(t, asFound))
	all := ask[int](b, `document.querySelectorAll("#matrix tbody tr").length`)
	if outside := ask[int](b, `[...document.querySelectorAll("#matrix button")].filter(e => e.closest("td").getBoundingClientRect().left > e.getBoundingClientRect().left).length`); outside > 0 {
		t.Errorf("%d buttons are not in their cells", outside)
	}
	b.run(chromedp.SetValue("#kind", "FAIL"), chromedp.Evaluate(`document.getElementById("kind").dispatchEvent(new Event("change"))`, nil))
	if n := ask[int](b, `document.querySelectorAll("#matrix tbody tr").length`); n == 0 || n >= all {
		t.Errorf("%d of %d scenarios fail", n, all)
	}
	b.run(chromedp.SendKeys("#kernel", "6.16"))
	wait(b, `document.querySelectorAll("#matrix thead th").length === 2 && document.querySelector("#matrix td").textContent === "✕ FAIL"`)
	b.run(chromedp.Focus("#matrix button"), chromedp.KeyEvent(kb.Enter))
	wait(b, `!document.getElementById("cell").hidden && document.activeElement.id === "cell" && document.getElementById("cell").textContent.includes("pinwatch check")`)

	b = open(t, checked(t, spoil))
	if n := ask[int](b, `document.querySelectorAll("img, svg").length`); n != 0 {
		t.Errorf("%d elements of a text", n)
	}
	if text := ask[string](b, `document.body.innerText`); !strings.Contains(text, "<img src=x") || !strings.Contains(text, "</script>") {
		t.Errorf("the page shows %q", text)
	}
}

// A recording of 100,000 events, of refusals too, is ready in seconds, and zoomed at once.
func TestManyEventsInBrowser(t *testing.T) {
	for _, every := range []int{10, 1} {
		html := many(t, 100_000, every)
		b := open(t, html)
		ready := ask[float64](b, `performance.now()`)
		t.Logf("1 of %d refused: %d MB, ready after %.0f ms", every, len(html)>>20, ready)
		if ready > 20_000 {
			t.Error("which is too late")
		}
		for what, action := range map[string]string{"zoom": `document.getElementById("in").click()`, "back": `document.getElementById("whole").click()`,
			"moment": `(() => { const m = document.getElementById("moment"); m.value = m.max / 2; m.dispatchEvent(new Event("input")); })()`} {
			var took float64 // with the drawing
			b.run(chromedp.Evaluate(fmt.Sprintf(`new Promise(done => { const began = performance.now(); %s; requestAnimationFrame(() => setTimeout(() => done(performance.now() - began))); })`, action), &took,
				func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
			t.Logf("%s: %.0f ms", what, took)
			if took > 1000 {
				t.Errorf("%s takes %.0f ms", what, took)
			}
		}
		late := ask[struct{ X, Y float64 }](b, `(() => { const e = document.querySelector(".u-over"); e.scrollIntoView({block: "center"}); const o = e.getBoundingClientRect(); return {X: o.left + o.width * .9, Y: o.top + o.height / 2}; })()`)
		b.run(chromedp.MouseClickXY(late.X, late.Y))
		wait(b, `document.querySelector("#notes .here") && document.querySelectorAll("#notes li").length < 1000`)
	}
}

// wait waits until an expression is true.
func wait(b *browser, expression string) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, chromedp.Poll(expression, nil, chromedp.WithPollingTimeout(10*time.Second))); err != nil {
		b.t.Errorf("%s: %v", expression, err)
	}
}

// The page in three sizes and both themes, as pictures: in PINWATCH_PICTURES, for somebody
// to look at. Nothing is wider than the page, and on paper it is light.
func TestPictures(t *testing.T) {
	dir := os.Getenv("PINWATCH_PICTURES")
	if dir == "" {
		dir = t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, html := range map[string][]byte{"published": report(t, published), "users": report(t, users), "check": checked(t, asFound)} {
		b := open(t, html)
		for _, size := range []struct{ width, height int64 }{{375, 812}, {1024, 768}, {1920, 1080}} {
			for _, theme := range []string{"light", "dark"} {
				var png []byte
				b.run(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
					emulation.SetDeviceMetricsOverride(size.width, size.height, 1, size.width < 500))
				wait(b, fmt.Sprintf(`document.documentElement.dataset.theme === %q && innerWidth === %d && [...document.querySelectorAll(".uplot")].every(u => u.offsetWidth === u.parentElement.clientWidth)`, theme, size.width))
				if wide := ask[int64](b, `document.documentElement.scrollWidth`); wide > size.width {
					t.Errorf("%s: %d wide on a screen of %d", name, wide, size.width)
				}
				b.run(chromedp.FullScreenshot(&png, 100))
				save(t, filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, size.width, theme)), png)
				if name == "published" && size.width == 1024 && theme == "light" {
					b.beginning(filepath.Join(dir, "report.png"))
				}
			}
		}
		b.run(chromedp.ActionFunc(func(ctx context.Context) error {
			pdf, _, err := cdp.PrintToPDF().WithPrintBackground(true).Do(ctx)
			if err == nil {
				save(t, filepath.Join(dir, name+".pdf"), pdf)
			}
			return err
		}))
	}
}

// beginning saves the page up to its first chart, for the README.
func (b *browser) beginning(path string) {
	b.t.Helper()
	height := ask[float64](b, `scrollTo(0, 0), document.querySelector("figure").getBoundingClientRect().bottom + 8`)
	b.run(chromedp.ActionFunc(func(ctx context.Context) error {
		png, err := cdp.CaptureScreenshot().WithCaptureBeyondViewport(true).WithClip(&cdp.Viewport{Width: 1024, Height: height, Scale: .75}).Do(ctx)
		if err == nil {
			save(b.t, path, png)
		}
		return err
	}))
}

func save(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Of a page with a gap, nobody holds anything in it, and what went before it says that it ended there.
func TestGapsInBrowser(t *testing.T) {
	b := open(t, gapped(t))
	b.run(emulation.SetDeviceMetricsOverride(1280, 900, 1, false))
	words := ask[string](b, `document.getElementById("verdict").textContent`)
	if !strings.Contains(words, gap) || strings.Count(words, ", from 2026-11-21T10:48:") != 2 || !strings.Contains(words, "Times are since 2026-11-21T10:48:36Z.") {
		t.Errorf("the verdict says %q", words)
	}
	if captions := ask[string](b, `[...document.querySelectorAll("#users figcaption")].map(c => c.textContent).join("\n")`); strings.Count(captions, "uid 1001") != 2 || !strings.Contains(captions, " · until a gap, at ") {
		t.Errorf("the charts of users are called %q", captions)
	}
	// The last moment before the second trace is in the gap.
	b.run(chromedp.Evaluate(`(() => {
		const d = JSON.parse(document.getElementById("data").textContent), m = document.getElementById("moment");
		const all = [...d.moves.t, ...d.notes.map(n => n.t), ...d.accounts.flatMap(a => a.t.slice(1)), d.end];
		const times = [...new Set(all)].filter(t => t >= 0).sort((a, b) => a - b); // as the slider has them
		m.value = times.findIndex(t => t > 10e6) - 1;
		m.dispatchEvent(new Event("input"));
	})()`, nil))
	if held := ask[string](b, `document.querySelector("#holders tbody").textContent + document.querySelector("#holders tfoot").textContent`); held != "Nobody that is known." {
		t.Errorf("in the gap %q", held)
	}
}
