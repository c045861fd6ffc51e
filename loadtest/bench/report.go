//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

// report writes what was measured, in Markdown.
func (b *bench) report(w io.Writer) {
	s := b.settings
	fmt.Fprintf(w, "Made by `%s` with %s on %d × %s, %s.\n", s.command, s.tokens(), runtime.NumCPU(), processor(), runtime.Version())
	fmt.Fprintf(w, "Medians of %d rounds of %s for each line, in brackets the lowest and the highest round. CPU in µs for each operation; *added* is gateway and workers beyond the raw token's CPU (for `pool.Do`: caller and workers beyond it). p50 and p99 of a batch are the whole batch's.\n", s.rounds, s.duration)
	others, stolen := b.disturbance()
	fmt.Fprintf(w, "Meanwhile other programs had %.0f %% of the processors and the hypervisor kept back %.0f %%; the more of either, the less the figures are worth.\n", 100*others, 100*stolen)
	for i := range b.rows {
		b.rows[i].table(w)
	}
	b.targets(w)
	b.poolAlone(w)
	if s.asides {
		b.aside.tables(w)
	}
}

// disturbance returns which part of the processors' time others had while cells were measured.
func (b *bench) disturbance() (others, stolen float64) {
	var all, o, st float64
	for _, r := range b.rows {
		for _, cells := range r.cells {
			for _, c := range cells {
				all += c.elapsed.Seconds() * float64(runtime.NumCPU())
				o += c.others.Seconds()
				st += c.stolen.Seconds()
			}
		}
	}
	return o / all, st / all
}

// processor is the processor's name, as the kernel tells it.
func processor() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // where there is none, the name is unknown
	for line := range bytes.Lines(b) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// best returns the raw way with the highest median rate.
func (r *row) best() int {
	best, rate := 0, -1.0
	for i, w := range r.ways {
		if m := r.each(i, (*cell).rate).median; w.raw && m > rate {
			best, rate = i, m
		}
	}
	return best
}

// each returns the spread of f over the rounds of a way.
func (r *row) each(way int, f func(*cell) float64) spread {
	v := make([]float64, len(r.cells[way]))
	for i, c := range r.cells[way] {
		v[i] = f(c)
	}
	return spreadOf(v)
}

// against returns the spread of f over the rounds of a way, each with the cell of another way in the same round.
func (r *row) against(way, other int, f func(c, o *cell) float64) spread {
	v := make([]float64, len(r.cells[way]))
	for i, c := range r.cells[way] {
		v[i] = f(c, r.cells[other][i])
	}
	return spreadOf(v)
}

// perOp turns a cell's CPU time into microseconds for each operation.
func (c *cell) perOp(d time.Duration) float64 {
	if c.ops == 0 {
		return 0
	}
	return float64(d) / float64(c.ops) / 1e3
}

// added is the CPU of one operation beyond that of the raw token, in microseconds. Behind a gateway this process is
// only the client and does not count; otherwise it is what calls the pool, and counts.
func added(c, raw *cell) float64 {
	ours := c.server + c.workers
	if c.server == 0 {
		ours += c.own
	}
	return c.perOp(ours) - raw.perOp(raw.own)
}

func ratio(c, raw *cell) float64 { return c.rate() / raw.rate() }

func micros(d time.Duration) string {
	switch us := float64(d) / 1e3; {
	case us < 10:
		return fmt.Sprintf("%.1f µs", us)
	case us < 10_000:
		return fmt.Sprintf("%.0f µs", us)
	default:
		return fmt.Sprintf("%.1f ms", us/1e3)
	}
}

// thousands writes a number with separators, as the tables' rates are read by people.
func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	var out []byte
	for i, c := range []byte(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out = append(out, ',')
		}
		out = append(out, c)
	}
	return string(out)
}

func (r *row) table(w io.Writer) {
	fmt.Fprintf(w, "\n### %s\n\n| way | operations/s | of raw | CPU: caller | gateway | workers | added | allocations | p50 | p99 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n", r.op.title)
	raw := r.best()
	for i, way := range r.ways {
		rate := r.each(i, (*cell).rate)
		name, share, extra, allocs, gateway, workers := way.name, "", "", "–", "–", "–"
		behind := r.cells[i][0].server > 0
		switch {
		case i == raw:
			name, share = "**"+name+"**", "raw"
		default:
			share = fmt.Sprintf("%.0f %%", 100*r.against(i, raw, ratio).median)
		}
		if !way.raw {
			extra = fmt.Sprintf("%.1f", r.against(i, raw, added).median)
		}
		if behind {
			gateway = fmt.Sprintf("%.1f", r.each(i, func(c *cell) float64 { return c.perOp(c.server) }).median)
		} else {
			allocs = fmt.Sprintf("%.1f", r.each(i, func(c *cell) float64 { return float64(c.allocs) / float64(c.ops) }).median)
		}
		if r.cells[i][0].workers > 0 {
			workers = fmt.Sprintf("%.1f", r.each(i, func(c *cell) float64 { return c.perOp(c.workers) }).median)
		}
		p := func(p float64) string {
			return micros(time.Duration(r.each(i, func(c *cell) float64 { return float64(c.times.percentile(p)) }).median))
		}
		fmt.Fprintf(w, "| %s | %s (%s–%s) | %s | %.1f | %s | %s | %s | %s | %s | %s |\n", name,
			thousands(rate.median), thousands(rate.min), thousands(rate.max), share,
			r.each(i, func(c *cell) float64 { return c.perOp(c.own) }).median, gateway, workers, extra, allocs, p(50), p(99))
	}
}

func (b *bench) poolAlone(w io.Writer) {
	fmt.Fprintf(w, "\n### pool.Do alone, on tokens that answer at once\n\n| callers | time for each | CPU | allocations | p99 |\n|---:|---:|---:|---:|---:|\n")
	for i, n := range []int{1, b.settings.connections} {
		r := row{cells: [][]*cell{b.instants[i]}}
		fmt.Fprintf(w, "| %d | %.2f µs | %.2f µs | %.1f | %s |\n", n,
			r.each(0, func(c *cell) float64 { return 1e6 / c.rate() }).median,
			r.each(0, func(c *cell) float64 { return c.perOp(c.own) }).median,
			r.each(0, func(c *cell) float64 { return float64(c.allocs) / float64(c.ops) }).median,
			micros(time.Duration(r.each(0, func(c *cell) float64 { return float64(c.times.percentile(99)) }).median)))
	}
}

// tables writes what was measured besides.
func (a *aside) tables(w io.Writer) {
	fmt.Fprintf(w, "\n### Start and memory\n\n| what | measured |\n|---|---:|\n")
	fmt.Fprintf(w, "| start of `keyway dev` on an existing directory, until it answers | %.2f s |\n", a.restart.Seconds())
	fmt.Fprintf(w, "| first start, which makes tokens and keys | %.2f s |\n", a.firstStart.Seconds())
	fmt.Fprintf(w, "| memory of the gateway and %d workers, idle | %s |\n", members, a.idle)
	fmt.Fprintf(w, "| the same under %d connections, the most of any operation | %s |\n", a.connections, a.loaded)
	fmt.Fprintf(w, "| the custody token's worker beside them, idle | %s |\n", a.custody)
	fmt.Fprintf(w, "\n### The first request with a key, on one connection\n\n| key | first request (longest) | later ones | keys |\n|---|---:|---:|---:|\n")
	for _, k := range a.cold {
		fmt.Fprintf(w, "| %s, %s | %s (%s) | %s | %d |\n", k.algorithm, k.call, micros(k.first), micros(k.firstMax), micros(k.afterwards), k.keys)
	}
}

func (m memory) String() string {
	rss := fmt.Sprintf("%.0f MB RSS", float64(m.rss)/1e6)
	if m.pss == 0 {
		return rss
	}
	return fmt.Sprintf("%.0f MB PSS (%s)", float64(m.pss)/1e6, rss)
}
