package report

// The short table of the two READMEs of the project.

import (
	"fmt"
	"math"
	"strings"
)

// shortConcurrency is how many callers the short table and the plot are about.
const shortConcurrency = 32

// shortCells are its columns.
var shortCells = []cellName{
	{false, 100, shortConcurrency}, {false, 32 << 10, shortConcurrency}, {false, 339_721, shortConcurrency}, {false, 2 << 20, shortConcurrency},
	{true, 339_721, shortConcurrency}, {true, 2 << 20, shortConcurrency},
}

// language is the words of the short table.
type language struct {
	download, upload        string
	stock, tuned, nginx     string
	cpu, latency, reference string
}

var english = language{
	download: "download %s", upload: "upload %s",
	stock:   "requests a second, against `rewrite` and `reverse_proxy` with defaults",
	tuned:   "… against the same, tuned",
	nginx:   "… against nginx, tuned",
	cpu:     "CPU time per request, against `reverse_proxy` with defaults",
	latency: "µs added to a request without a gateway (one caller, p50)",
	reference: "Medians of %d rounds, %d callers, the gateway on one core (%s), %s, Caddy %s, nginx %s, %s. " +
		"[`bench`](bench) has the method, the spread, and what is left out here.",
}

var chinese = language{
	download: "下载 %s", upload: "上传 %s",
	stock:   "每秒请求数，与默认配置的 `rewrite` 加 `reverse_proxy` 之比",
	tuned:   "……与调优后的同一配置之比",
	nginx:   "……与调优后的 nginx 之比",
	cpu:     "每个请求的 CPU 时间，与默认配置的 `reverse_proxy` 之比",
	latency: "与不经网关相比增加的微秒数（单个调用方，p50）",
	reference: "%d 轮的中位数，%d 个并发调用方，网关占用一个核心（%s），%s，Caddy %s，nginx %s，%s。" +
		"方法、波动范围和此处未列出的数据见 [`bench`](bench)。",
}

func short(r *Run, l language) string {
	head := []string{""}
	for _, c := range shortCells {
		text := l.download
		if c.upload {
			text = l.upload
		}
		head = append(head, fmt.Sprintf(text, sizeWords(c.size)))
	}
	ratios := func(label, other string, f metric) []string {
		row := []string{label}
		for _, c := range shortCells {
			row = append(row, times(r.ratio(c.String(), ours, other, f)))
		}
		return row
	}
	added := []string{l.latency}
	for _, c := range shortCells {
		c.concurrency = 1
		added = append(added, plain(r.difference(c.String(), ours, direct, p50)))
	}
	e := r.Environment
	var b strings.Builder
	b.WriteString(table(head, [][]string{
		ratios(l.stock, stock, throughput), ratios(l.tuned, tuned, throughput), ratios(l.nginx, nginx, throughput),
		ratios(l.cpu, stock, gatewayCPU), added,
	}))
	b.WriteString("\n" + fmt.Sprintf(l.reference, e.Rounds, shortConcurrency, e.CPU, e.Go, e.Caddy, e.Nginx, e.Date) + "\n")
	return b.String()
}

func times(s stat) string {
	if s.n == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f ×", s.median)
}

func plain(s stat) string {
	if s.n == 0 {
		return "–"
	}
	return fmt.Sprint(math.Round(s.median))
}
