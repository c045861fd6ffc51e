//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"keyway/loadtest/ask"
)

// grace is how much later than its deadline an answer may come.
const grace = 50 * time.Millisecond

// fate is what came of a request.
type fate uint8

const (
	right fate = iota
	failed
	wrong
	late // right, but after the deadline
)

// point is one request. Times are from the begin of the tape.
type point struct {
	at   time.Duration // when it was to start
	took time.Duration // from then on
	fate fate
	bad  bool // a caller's mistake, which has a right answer too
}

// tape records what came of requests. It is safe for concurrent use.
type tape struct {
	begun    time.Time
	deadline time.Duration

	mu       sync.Mutex
	points   []point
	examples []string // of what was not right
}

// told is how many requests that were not right are told in full.
const told = 5

func newTape(deadline time.Duration) *tape { return &tape{begun: time.Now(), deadline: deadline} }

// now is the time since the begin.
func (t *tape) now() time.Duration { return time.Since(t.begun) }

// sample records one request of package ask. The deadline counts from when it was sent, which may be later than intended on a
// busy machine, the latency from when it was to be.
func (t *tape) sample(s ask.Sample) {
	t.add(s.Question, s.Intended, s.Took, s.Took-s.Late, s.Err)
}

// add records one request that was to start at a time, took so long from then on and so long since it was sent.
func (t *tape) add(what string, intended time.Time, took, sent time.Duration, err error) {
	p := point{at: intended.Sub(t.begun), took: took, bad: strings.HasPrefix(what, "bad ")}
	switch {
	case errors.Is(err, ask.ErrWrong):
		p.fate = wrong
	case sent > t.deadline+grace:
		p.fate = late
	case err != nil:
		p.fate = failed
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.points = append(t.points, p)
	if p.fate != right && len(t.examples) < told {
		t.examples = append(t.examples, fmt.Sprintf("%.2f s: %s after %s: %v", p.at.Seconds(), what, sent.Round(time.Millisecond), err))
	}
}

// Figures are what came of the requests of a window of time. Times are milliseconds.
type Figures struct {
	N      int `json:"n"`
	Failed int `json:"failed"`
	Wrong  int `json:"wrong"`
	Late   int `json:"late"`
	// Rate is how many right answers came a second.
	Rate float64 `json:"rate"`
	P50  float64 `json:"p50"`
	P99  float64 `json:"p99"`
	// Good is the p99 of those that are no callers' mistakes.
	Good float64 `json:"p99_good"`
	Max  float64 `json:"max"`
}

// between are the figures of the requests that were to start from one time until another.
func (t *tape) between(from, to time.Duration) (f Figures) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var took, good []time.Duration
	for _, p := range t.points {
		if p.at < from || p.at >= to {
			continue
		}
		f.N++
		took = append(took, p.took)
		if !p.bad {
			good = append(good, p.took)
		}
		switch p.fate {
		case failed:
			f.Failed++
		case wrong:
			f.Wrong++
		case late:
			f.Late++
		}
	}
	if len(took) == 0 {
		return f
	}
	slices.Sort(took)
	f.Rate = float64(f.N-f.Failed-f.Wrong) / (to - from).Seconds()
	f.P50, f.P99, f.Max = millis(percentile(took, 50)), millis(percentile(took, 99)), millis(took[len(took)-1])
	if slices.Sort(good); len(good) > 0 {
		f.Good = millis(percentile(good, 99))
	}
	return f
}

// percentile is the smallest of sorted durations that p percent of them do not exceed. There is one.
func percentile(sorted []time.Duration, p float64) time.Duration {
	return sorted[max(int(math.Ceil(p*float64(len(sorted))/100)), 1)-1]
}

func millis(d time.Duration) float64 { return math.Round(float64(d)/1e4) / 100 }

// Throughput is looked at in steps, of which some in a row must be enough.
const (
	step  = 100 * time.Millisecond
	inRow = 5
)

// full is how long after from the right answers of half a second come at a rate again; -1 when they do not until to.
func (t *tape) full(from, to time.Duration, rate float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	steps := make([]int, max(0, (to-from)/step))
	for _, p := range t.points {
		if end := p.at + p.took - from; p.fate == right && end >= 0 && int(end/step) < len(steps) {
			steps[end/step]++
		}
	}
	want := rate * (inRow * step).Seconds()
	for i := range len(steps) - inRow + 1 {
		n := 0
		for _, s := range steps[i : i+inRow] {
			n += s
		}
		if float64(n) >= want {
			return time.Duration(i) * step
		}
	}
	return -1
}
