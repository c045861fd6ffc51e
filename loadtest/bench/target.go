//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// target is a line of what the design promises, with what was measured.
type target struct {
	what, limit, measured string
	met                   bool
}

// targets compares what was measured with the design's promises. It only tells: on a shared machine speed must fail nothing.
func (b *bench) targets(w io.Writer) {
	var all []target
	for i := range b.rows {
		all = append(all, b.rows[i].targets()...)
	}
	one := row{cells: [][]*cell{b.instants[0]}}
	took := one.each(0, func(c *cell) float64 { return 1e6 / c.rate() }).median
	allocs := one.each(0, func(c *cell) float64 { return float64(c.allocs) / float64(c.ops) }).median
	all = append(all,
		target{"`pool.Do` alone, one caller", "≤ 2 µs", fmt.Sprintf("%.2f µs", took), took <= 2},
		target{"`pool.Do` alone", "≤ 6 allocations", fmt.Sprintf("%.1f", allocs), allocs <= 6})
	if b.settings.asides {
		all = append(all, b.aside.targets()...)
	}
	fmt.Fprintf(w, "\n### Against the design's targets\n\n| what | target | measured | met |\n|---|---|---:|---|\n")
	for _, t := range all {
		met := "yes"
		if !t.met {
			met = "**no**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", t.what, t.limit, t.measured, met)
	}
}

// find returns the way whose name begins so, or -1.
func (r *row) find(prefix string) int {
	for i, w := range r.ways {
		if strings.HasPrefix(w.name, prefix) {
			return i
		}
	}
	return -1
}

// share is the part of the raw rate that HTTP must reach.
var share = map[string]float64{"rsa": 0.85, "p256": 0.50, "wrap": 0.25}

func (r *row) targets() []target {
	raw, http := r.best(), r.find("HTTP, ")
	var out []target
	if want, ok := share[r.op.name]; ok {
		got := r.against(http, raw, ratio).median
		out = append(out, target{"HTTP " + r.op.title + ", of raw", fmt.Sprintf("≥ %.0f %%", 100*want), fmt.Sprintf("%.0f %%", 100*got), got >= want})
	}
	cpu := r.against(http, raw, added).median
	out = append(out, target{"CPU added to " + r.op.title, "≤ 30 µs", fmt.Sprintf("%.1f µs", cpu), cpu <= 30})
	if r.op.name == "p256" {
		cost := 1 - r.against(r.find("pool.Do, workers"), r.find("pool.Do in process"), ratio).median
		out = append(out, target{"isolation, of in-process " + r.op.title, "costs ≤ 15 %", fmt.Sprintf("%.0f %%", 100*cost), cost <= 0.15})
	}
	return out
}

func (a *aside) targets() []target {
	const mb = 1_000_000
	held := func(m memory) int64 {
		if m.pss > 0 {
			return m.pss
		}
		return m.rss
	}
	return []target{
		{"memory, idle", "≤ 150 MB", a.idle.String(), held(a.idle) <= 150*mb},
		{fmt.Sprintf("memory under %d connections", a.connections), "≤ 300 MB", a.loaded.String(), held(a.loaded) <= 300*mb},
		{"start on an existing directory", "≤ 2 s", fmt.Sprintf("%.2f s", a.restart.Seconds()), a.restart <= 2*time.Second},
	}
}
