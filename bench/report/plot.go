package report

// The plot: throughput of all contenders against that of stock Caddy.

import (
	"bytes"
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// plotted are the contenders with bars; the line at 1 is stock Caddy.
var plotted = []struct {
	name  string
	color color.RGBA
}{
	{ours, color.RGBA{R: 0x1a, G: 0x7f, B: 0x37, A: 0xff}},
	{tuned, color.RGBA{R: 0x54, G: 0x93, B: 0xd1, A: 0xff}},
	{limit, color.RGBA{R: 0x9a, G: 0xa5, B: 0xb1, A: 0xff}},
	{nginx, color.RGBA{R: 0xd9, G: 0x8e, B: 0x2b, A: 0xff}},
}

const (
	plotWidth, plotHeight = 800, 340
	barWidth              = 0.19 // of the distance between cells
)

// svg draws medians as bars, with the spread on top.
func svg(r *Run) ([]byte, error) {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Requests a second, stock Caddy = 1, %d callers", shortConcurrency)
	p.Y.Min, p.X.Min, p.X.Max = 0, -0.5, float64(len(shortCells))-0.5
	p.Legend.Top, p.Legend.Left = true, true

	ticks := make([]plot.Tick, len(shortCells))
	for i, c := range shortCells {
		ticks[i] = plot.Tick{Value: float64(i), Label: c.words()}
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	p.X.Tick.LineStyle.Width = 0
	for i, contender := range plotted {
		at := (float64(i) - float64(len(plotted)-1)/2) * barWidth
		if err := addBars(p, r, contender.name, contender.color, at); err != nil {
			return nil, fmt.Errorf("drawing %s: %w", contender.name, err)
		}
	}
	one, err := plotter.NewLine(plotter.XYs{{X: p.X.Min, Y: 1}, {X: p.X.Max, Y: 1}})
	if err != nil {
		return nil, fmt.Errorf("drawing line: %w", err)
	}
	one.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	p.Add(one)
	p.Legend.Add(stock, one)
	p.Y.Max *= 1.3 // the legend's place

	canvas := vgsvg.New(vg.Points(plotWidth), vg.Points(plotHeight))
	p.Draw(newDrawCanvas(canvas))
	var out bytes.Buffer
	_, err = canvas.WriteTo(&out)
	return out.Bytes(), err
}

// addBars draws a contender's bars, which are thick lines, beside the cells' middles.
func addBars(p *plot.Plot, r *Run, contender string, c color.Color, at float64) error {
	for i, cell := range shortCells {
		s := r.ratio(cell.String(), contender, stock, throughput)
		if s.n == 0 {
			continue
		}
		x := float64(i) + at
		bar, err := plotter.NewLine(plotter.XYs{{X: x, Y: 0}, {X: x, Y: s.median}})
		if err != nil {
			return err
		}
		bar.Color, bar.Width = c, vg.Points(0.9*barWidth*plotWidth/float64(len(shortCells))*0.93)
		reach, err := plotter.NewLine(plotter.XYs{{X: x, Y: s.min}, {X: x, Y: s.max}})
		if err != nil {
			return err
		}
		p.Add(bar, reach)
		if i == 0 {
			p.Legend.Add(contender, swatch{c})
		}
	}
	return nil
}
