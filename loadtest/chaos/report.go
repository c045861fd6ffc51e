//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// Report is one run's outcome, as -json writes it. Times are seconds from the begin, latencies milliseconds.
type Report struct {
	Seed    uint64  `json:"seed"`
	Command string  `json:"command"`
	Rate    int     `json:"rate"`
	Lasted  float64 `json:"lasted"`
	// Deadline is the gateway's for a request.
	Deadline float64           `json:"deadline"`
	Counts   map[string]*Count `json:"counts"`
	Latency  Latency           `json:"latency"`
	// SentLate is by how many milliseconds the latest request was sent later than it was to be, since this machine was busy.
	SentLate float64 `json:"sent_late"`
	// Stood is for how many seconds the machine stood still: requests were sent late then.
	Stood    float64     `json:"stood"`
	Seconds  []Second    `json:"seconds"`
	Members  []string    `json:"members"`
	Spared   []Fault     `json:"spared"` // who had no fault, from when to when
	Faults   []Fault     `json:"faults"`
	States   []State     `json:"states"`
	Gateways int         `json:"gateways"`
	Before   []Resources `json:"before"` // of each gateway
	After    []Resources `json:"after"`
	Broken   []Broken    `json:"broken"`
}

// Latency is a distribution in milliseconds, from the moment a request was to start.
type Latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Second is what was to start within a second.
type Second struct {
	Latency
	Right  int `json:"right"`
	Failed int `json:"failed"`
}

func latencyOf(took []time.Duration) Latency {
	if len(took) == 0 {
		return Latency{}
	}
	slices.Sort(took)
	at := func(p float64) float64 {
		return float64(took[min(len(took)-1, int(p*float64(len(took))))].Microseconds()) / 1000
	}
	return Latency{at(.5), at(.99), at(1)}
}

// report sums up. Nothing is sent any more.
func (r *rehearsal) report(before []Resources) *Report {
	rec := r.rec
	rec.mu.Lock()
	defer rec.mu.Unlock()
	command := fmt.Sprintf("go run ./loadtest/chaos -time %s -rate %d -gateways %d -pause %s -seed %d", r.time, r.rate, r.gateways, r.rest.max, r.seed)
	if r.defaults {
		command += " -defaults"
	}
	rec.judge()
	out := &Report{
		Seed: r.seed, Rate: r.rate, Gateways: r.gateways, Counts: rec.counts, Faults: rec.faults, States: rec.states, Before: before, After: r.after, Broken: rec.broken,
		Command:  command,
		Deadline: r.deadline.Seconds(),
		Lasted:   rec.since(time.Now()),
	}
	var all []time.Duration
	for _, s := range rec.seconds {
		all = append(all, s.took...)
		out.Seconds = append(out.Seconds, Second{latencyOf(s.took), len(s.took), s.failed})
	}
	out.Latency = latencyOf(all)
	out.SentLate, out.Stood = float64(rec.sentLate.Microseconds())/1000, rec.stood().Seconds()
	for _, t := range r.all {
		out.Members = append(out.Members, t.Record.Name)
	}
	for i, s := range rec.spared {
		f := Fault{Member: r.all[s.member].Record.Name, Name: "spared", From: rec.since(s.at), To: float64(len(out.Seconds))}
		if i+1 < len(rec.spared) {
			f.To = rec.since(rec.spared[i+1].at)
		}
		out.Spared = append(out.Spared, f)
	}
	for i := range out.Faults {
		if out.Faults[i].To < 0 {
			out.Faults[i].To = out.Lasted
		}
	}
	return out
}

// total adds up the counts.
func (r *Report) total() (sum Count) {
	for _, c := range r.Counts {
		sum.Right += c.Right
		sum.Wrong += c.Wrong
		sum.Failed += c.Failed
		sum.Late += c.Late
		sum.Excused += c.Excused
		sum.Stalled += c.Stalled
	}
	return sum
}

// table prints the outcome for people.
func (r *Report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "request\tright\twrong\tfailed\tlate\texcused\tstalled\t")
	line := func(name string, c Count) {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", name, c.Right, c.Wrong, c.Failed, c.Late, c.Excused, c.Stalled)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Counts)) {
		line(name, *r.Counts[name])
	}
	line("all", r.total())
	_ = t.Flush() // to memory or a terminal
	fmt.Fprintf(w, "\n%d faults of %d kinds in %.0f s; latency from the intended start: p50 %.1f ms, p99 %.1f ms, longest %.0f ms\n",
		len(r.Faults), r.kinds(), r.Lasted, r.Latency.P50, r.Latency.P99, r.Latency.Max)
	if r.SentLate > 100 {
		fmt.Fprintf(w, "this machine is too busy for the rate: it stood still for %.1f s, and a request was sent %.0f ms late; that is in the latencies and not in the deadlines\n", r.Stood, r.SentLate)
	}
	for i := range min(len(r.Before), len(r.After)) {
		b, a := r.Before[i], r.After[i]
		fmt.Fprintf(w, "gateway %d: goroutines %d → %d, threads %d → %d, files %d → %d, memory %d → %d MiB\n", i+1,
			b.Goroutines, a.Goroutines, b.Threads, a.Threads, b.Files, a.Files, b.RSS/megabyte, a.RSS/megabyte)
	}
	for _, b := range r.Broken {
		fmt.Fprintf(w, "BROKEN at %.1f s: %s: %s\n    spared: %s; faults: %v\n", b.At, b.Promise, b.What, b.Spared, b.Faults)
	}
	verdict := "every promise was kept"
	if len(r.Broken) > 0 {
		verdict = "promises were broken; the same faults again"
	}
	fmt.Fprintf(w, "%s: %s\n", verdict, r.Command)
}

// broke reports whether a promise was broken.
func (r *Report) broke(promise string) bool {
	return slices.ContainsFunc(r.Broken, func(b Broken) bool { return b.Promise == promise })
}

// kinds is how many different faults there were.
func (r *Report) kinds() int {
	seen := map[string]bool{}
	for _, f := range r.Faults {
		seen[f.Name] = true
	}
	return len(seen)
}

// write writes the files that were asked for.
func (r *Report) write(s settings) error {
	var err error
	if s.json != "" {
		b, e := json.MarshalIndent(r, "", " ")
		err = errors.Join(e, put(s.json, b))
	}
	if s.html != "" {
		b, e := r.page()
		err = errors.Join(err, e, put(s.html, b))
	}
	return err
}

func put(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}
