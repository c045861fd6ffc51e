//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
)

// Report is what a run found out, as -json writes it.
type Report struct {
	Command    string  `json:"command"`
	Processors int     `json:"processors"`
	Rate       int     `json:"rate"`
	Conns      int     `json:"connections"`
	Deadline   float64 `json:"deadline"`
	// Load is the machine's load average over one minute at the begin and at the end.
	Load     [2]string `json:"load"`
	Verified int64     `json:"verified"`
	Rows     []Row     `json:"rows"`
	Days     []Day     `json:"days"`

	mu sync.Mutex
}

// Row is one promise of one act.
type Row struct {
	Act      string `json:"act"`
	Promise  string `json:"promise"`
	Measured string `json:"measured"`
	// Verdict is kept, BROKEN for a promise of correctness, or missed for one of speed.
	Verdict  string   `json:"verdict"`
	Examples []string `json:"examples,omitempty"`
}

// Day are the figures before, during and after a trouble.
type Day struct {
	Act    string  `json:"act"`
	Before Figures `json:"before"`
	During Figures `json:"during"`
	After  Figures `json:"after"`
}

const (
	kept   = "kept"
	broken = "BROKEN"
	missed = "missed"
)

// must judges a promise of correctness, which may not be broken.
func (r *Report) must(act, promise, measured string, ok bool, examples ...string) {
	row := Row{Act: act, Promise: promise, Measured: measured, Verdict: kept}
	if !ok {
		row.Verdict, row.Examples = broken, examples
	}
	r.Rows = append(r.Rows, row)
}

// should judges a promise of speed, which a busy machine may miss.
func (r *Report) should(act, promise, measured string, ok bool) {
	row := Row{Act: act, Promise: promise, Measured: measured, Verdict: kept}
	if !ok {
		row.Verdict = missed
	}
	r.Rows = append(r.Rows, row)
}

func (r *Report) note(act string, before, during, after Figures) {
	r.Days = append(r.Days, Day{act, before, during, after})
}

func (r *Report) count(s *saturation) {
	r.mu.Lock()
	r.Verified += s.verified.Load()
	r.mu.Unlock()
}

// broke reports whether a promise of correctness was broken.
func (r *Report) broke() bool {
	for _, row := range r.Rows {
		if row.Verdict == broken {
			return true
		}
	}
	return false
}

// loadAverage is the machine's, over one minute.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

// table writes the report as Markdown.
func (r *Report) table(w io.Writer) {
	fmt.Fprintf(w, "Made by `%s` with SoftHSM 2 on %d processors, %s. Moderate load is %d requests a second at a constant rate, of ten kinds and with callers' mistakes, every answer checked; full load\n"+
		"are %d connections that never pause, P-256 signatures (one in %d verified) and MACs (each compared). A request's deadline is %.0f s. The machine's load was %s at the begin and %s at the end.\n\n",
		r.Command, r.Processors, runtime.Version(), r.Rate, r.Conns, verifyEvery, r.Deadline, r.Load[0], r.Load[1])
	fmt.Fprint(w, "| act | promise | measured | |\n|---|---|---|---|\n")
	last := ""
	for _, row := range r.Rows {
		act := row.Act
		if act == last {
			act = ""
		}
		last = row.Act
		verdict := row.Verdict
		if verdict != kept {
			verdict = "**" + verdict + "**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", act, row.Promise, row.Measured, verdict)
	}
	fmt.Fprint(w, "\n| act | p50, p99 before | meanwhile | after | rate before | meanwhile | after |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, d := range r.Days {
		fmt.Fprintf(w, "| %s", d.Act)
		for _, f := range []Figures{d.Before, d.During, d.After} {
			fmt.Fprintf(w, " | %.1f, %.1f ms", f.P50, f.P99)
		}
		for _, f := range []Figures{d.Before, d.During, d.After} {
			fmt.Fprintf(w, " | %.0f", f.Rate)
		}
		fmt.Fprintln(w, " |")
	}
	for _, row := range r.Rows {
		for _, e := range row.Examples {
			fmt.Fprintf(w, "\n%s: %s", row.Act, e)
		}
	}
	fmt.Fprintln(w)
}

func (r *Report) write(file string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o600)
}
