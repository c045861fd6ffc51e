//go:build linux

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"number": func(i int) int { return i + 1 }, "mib": func(b int64) string { return fmt.Sprintf("%d MiB", b/megabyte) }}).Parse(pageText))

// Measures of the drawing, in its own units.
const (
	left, right = 118, 16
	laneHeight  = 44
	chartHeight = 170
	gap         = 62
)

// page is the report as one HTML file that needs nothing else.
func (r *Report) page() ([]byte, error) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, map[string]any{"R": r, "Total": r.total(), "Kinds": r.kinds(), "Drawing": template.HTML(r.drawing()), "Names": r.names(), "Kept": len(r.Broken) == 0}) //nolint:gosec // drawing escapes what is not its own
	return b.Bytes(), err
}

func (r *Report) names() []string {
	var names []string
	for n := range r.Counts {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// drawing is the SVG: latency, throughput, and a lane for each member.
func (r *Report) drawing() string {
	d := &drawing{seconds: max(len(r.Seconds), 1)}
	d.width = min(max(1180, float64(d.seconds)*2.4), 2600)
	top := 34.0
	d.latency(r, top)
	top += chartHeight + gap
	d.throughput(r, top)
	top += 100 + gap
	d.lanes(r, top)
	height := top + float64(len(r.Members))*laneHeight + 34
	d.broken(r, 26, height-30)
	return fmt.Sprintf(`<svg viewBox="0 0 %.0f %.0f" width="%.0f" role="img" aria-label="latency, throughput and faults over time">%s</svg>`, d.width, height, d.width, d.b.String())
}

type drawing struct {
	b       strings.Builder
	width   float64
	seconds int
}

func (d *drawing) put(format string, a ...any) { fmt.Fprintf(&d.b, format+"\n", a...) }

func (d *drawing) text(x, y float64, class, s string) {
	d.put(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, template.HTMLEscapeString(s))
}

// x is where a second is.
func (d *drawing) x(t float64) float64 {
	return left + min(max(t, 0), float64(d.seconds))*(d.width-left-right)/float64(d.seconds)
}

// axis draws the time below a chart.
func (d *drawing) axis(y float64) {
	step := 5
	for _, s := range []int{10, 30, 60, 120, 300, 600} {
		if d.seconds/step > 20 {
			step = s
		}
	}
	for s := 0; s <= d.seconds; s += step {
		d.put(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="tick"/>`, d.x(float64(s)), d.x(float64(s)), y, y+4)
		d.text(d.x(float64(s)), y+16, "mid", fmt.Sprintf("%d:%02d", s/60, s%60))
	}
}

// latency is drawn on a logarithmic scale, from 0.1 ms to 10 s.
func (d *drawing) latency(r *Report, top float64) {
	const low, high = -1.0, 4.0 // powers of ten, in milliseconds
	y := func(ms float64) float64 {
		return top + chartHeight*(high-min(max(math.Log10(max(ms, .001)), low), high))/(high-low)
	}
	d.text(left, top-14, "title", "Latency from the intended start, each second")
	for _, t := range []struct {
		ms   float64
		name string
	}{{.1, "0.1 ms"}, {1, "1 ms"}, {10, "10 ms"}, {100, "100 ms"}, {1000, "1 s"}, {10000, "10 s"}} {
		d.put(`<line x1="%d" x2="%.1f" y1="%.1f" y2="%.1f" class="grid"/>`, left, d.width-right, y(t.ms), y(t.ms))
		d.text(left-8, y(t.ms)+4, "end", t.name)
	}
	limit := 1000 * r.Deadline
	d.put(`<line x1="%d" x2="%.1f" y1="%.1f" y2="%.1f" class="limit"/>`, left, d.width-right, y(limit), y(limit))
	d.text(d.width-right, y(limit)-4, "end", "deadline")
	for i, s := range []struct {
		class string
		of    func(Latency) float64
	}{{"max", func(l Latency) float64 { return l.Max }}, {"p99", func(l Latency) float64 { return l.P99 }}, {"p50", func(l Latency) float64 { return l.P50 }}} {
		var p strings.Builder
		for n, sec := range r.Seconds {
			if sec.Right > 0 {
				fmt.Fprintf(&p, "%.1f,%.1f ", d.x(float64(n)+.5), y(s.of(sec.Latency)))
			}
		}
		d.put(`<polyline points="%s" class="%s"/>`, strings.TrimSpace(p.String()), s.class)
		name := map[string]string{"max": "longest", "p99": "p99", "p50": "median"}[s.class]
		at := d.width - right - float64(i+1)*78
		d.put(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="%s"/>`, at, at+18, top-18, top-18, s.class)
		d.text(at+23, top-14, "", name)
	}
	d.axis(top + chartHeight)
}

func (d *drawing) throughput(r *Report, top float64) {
	const height = 100
	most := 1
	for _, s := range r.Seconds {
		most = max(most, s.Right+s.Failed)
	}
	d.text(left, top-14, "title", "Right answers each second; red: wrong, failed or late")
	wide := (d.width - left - right) / float64(d.seconds)
	h := func(n int) float64 { return height * float64(n) / float64(most) }
	for n, s := range r.Seconds {
		d.put(`<rect x="%.2f" y="%.1f" width="%.2f" height="%.1f" class="right"/>`, d.x(float64(n)), top+height-h(s.Right), wide+.2, h(s.Right))
		if s.Failed > 0 {
			hf := max(h(s.Failed), 3)
			d.put(`<rect x="%.2f" y="%.1f" width="%.2f" height="%.1f" class="failed"><title>%d at %d s</title></rect>`, d.x(float64(n)), top+height-h(s.Right)-hf, max(wide, 2), hf, s.Failed, n)
		}
	}
	for _, n := range []int{0, most} {
		d.text(left-8, top+height-h(n)+4, "end", fmt.Sprint(n))
	}
	d.put(`<line x1="%d" x2="%.1f" y1="%.1f" y2="%.1f" class="tick"/>`, left, d.width-right, top+height, top+height)
	d.axis(top + height)
}

// stateClasses colour a member's states.
var stateClasses = map[string]string{"active": "active", "ejected": "ejected", "joining": "joining", "draining": "drained", "drained": "drained", "removed": "removed", "latched": "latched"}

// lanes draws each member's states as a band and its faults above it.
func (d *drawing) lanes(r *Report, top float64) {
	d.text(left, top-14, "title", "Members: faults above, what each gateway makes of the member below; outlined: spared, the one that must serve")
	bottom := top + float64(len(r.Members))*laneHeight
	for i, m := range r.Members {
		y := top + float64(i)*laneHeight
		d.text(left-8, y+laneHeight/2+2, "end", m)
		for j, s := range r.States {
			if s.Member != m {
				continue
			}
			to := float64(d.seconds)
			for _, next := range r.States[j+1:] {
				if next.Member == m && next.Gateway == s.Gateway {
					to = next.At
					break
				}
			}
			high := 12 / float64(max(r.Gateways, 1))
			d.put(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s"><title>gateway %d: %s is %s from %.1f to %.1f s %s</title></rect>`, d.x(s.At), y+25+float64(s.Gateway-1)*high, d.x(to)-d.x(s.At), high-.8,
				stateClasses[s.State], s.Gateway, m, s.State, s.At, to, template.HTMLEscapeString(s.Reason))
		}
		for n, f := range r.Faults {
			if f.Member == m {
				w := max(d.x(f.To)-d.x(f.From), 2.5)
				d.put(`<rect x="%.1f" y="%.1f" width="%.1f" height="15" class="fault"><title>%s: %s, %.1f to %.1f s</title></rect>`, d.x(f.From), y+8, w, m, template.HTMLEscapeString(f.Name), f.From, f.To)
				if fits := int((w - 4) / 5.6); fits >= len(fmt.Sprint(n+1)) {
					d.text(d.x(f.From)+3, y+19, "label", shorten(fmt.Sprint(n+1), f.Name, fits))
				}
			}
		}
		for _, f := range r.Spared {
			if f.Member == m {
				d.put(`<rect x="%.1f" y="%.1f" width="%.1f" height="34" class="spared"><title>%s is spared from %.1f to %.1f s</title></rect>`, d.x(f.From), y+5, d.x(f.To)-d.x(f.From), m, f.From, f.To)
			}
		}
	}
	d.axis(bottom)
}

// shorten is a fault's number in the table below, and as much of its name as fits.
func shorten(number, name string, n int) string {
	all := []rune(number + " " + strings.TrimPrefix(name, "CKR_"))
	switch {
	case len(all) <= n:
		return string(all)
	case n < len(number)+5:
		return number
	}
	return string(all[:n-1]) + "…"
}

// broken marks when promises were broken.
func (d *drawing) broken(r *Report, top, bottom float64) {
	for _, b := range r.Broken {
		d.put(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="broken"><title>%s: %s</title></line>`, d.x(b.At), d.x(b.At), top, bottom, template.HTMLEscapeString(b.Promise), template.HTMLEscapeString(b.What))
	}
}
