//go:build linux

package main

import (
	"errors"
	"fmt"
	"keyway/loadtest/ask"
	"slices"
	"sync"
	"time"
)

// examples is how many of one kind of broken promise are told in full.
const examples = 20

// record is what has happened so far. It is safe for concurrent use.
type record struct {
	begun    time.Time
	deadline time.Duration
	members  []*token

	mu      sync.Mutex
	seconds []second
	counts  map[string]*Count
	spared  []sparing
	faults  []Fault
	states  []State
	broken  []Broken
	// sentLate is by how much the latest request was sent later than it was to be.
	sentLate time.Duration
	// stalls are the times in which this machine stood still for so long that nothing can be said about anybody's time, in the order they were
	// noticed, and suspects are what failed or was late: it is judged when all stalls are known.
	stalls   []stall
	suspects []ask.Sample
}

// stall is a time in which a request was to be sent and could not be.
type stall struct{ from, to time.Time }

// stalled is how late a request is sent that shows a stall: more than the scheduling of a machine that is merely busy.
const stalled = 250 * time.Millisecond

// second is what was to start within one second.
type second struct {
	took   []time.Duration // of the right answers
	failed int
}

// sparing is a change of the member that is left able.
type sparing struct {
	at     time.Time
	member int
}

// Count is what came of one kind of request.
type Count struct {
	Right   int `json:"right"`
	Wrong   int `json:"wrong"`
	Failed  int `json:"failed"`
	Late    int `json:"late"`
	Excused int `json:"excused"`
	// Stalled failed or were late while the machine stood still.
	Stalled int `json:"stalled"`
}

// Fault is one fault that was played. Times are seconds from the begin.
type Fault struct {
	Member string  `json:"member"`
	Name   string  `json:"name"`
	From   float64 `json:"from"`
	To     float64 `json:"to"`
}

// State is a member's state from a time on, until its next one.
type State struct {
	Gateway int     `json:"gateway"`
	Member  string  `json:"member"`
	State   string  `json:"state"`
	Reason  string  `json:"reason,omitempty"`
	At      float64 `json:"at"`
}

// Broken is a promise that was not kept.
type Broken struct {
	Promise string  `json:"promise"`
	What    string  `json:"what"`
	At      float64 `json:"at"`
	// Spared is the member that had no fault, Faults are those that the others had.
	Spared string   `json:"spared"`
	Faults []string `json:"faults,omitempty"`
}

// The promises.
const (
	noWrongAnswer = "no wrong answer"
	noFailure     = "no failed request while a member is able"
	noLateAnswer  = "no answer later than the deadline"
	noTrip        = "a member without a fault serves"
	comesBack     = "a member whose faults are over serves again"
	ordersWork    = "operators' orders are carried out"
	noLeak        = "nothing is left behind"

	canJudge = "the machine is able to judge"

	pinsTriedOnce  = "a refused PIN is tried once and latches the member"
	leaksEnd       = "a worker that grows too large is replaced"
	gatewaysFollow = "the other gateways follow an operator's order"
)

func newRecord(begun time.Time, deadline time.Duration, members []*token) *record {
	return &record{begun: begun, deadline: deadline, members: members, counts: map[string]*Count{}}
}

func (r *record) since(t time.Time) float64 {
	return float64(t.Sub(r.begun).Milliseconds()) / 1000
}

// sample counts what came of one request.
func (r *record) sample(s ask.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[s.Question]
	if c == nil {
		c = &Count{}
		r.counts[s.Question] = c
	}
	n := int(s.Intended.Sub(r.begun) / time.Second)
	for len(r.seconds) <= n {
		r.seconds = append(r.seconds, second{})
	}
	sec := &r.seconds[n]
	end := s.Intended.Add(s.Took)
	r.sentLate = max(r.sentLate, s.Late)
	if s.Late > stalled {
		r.stalls = append(r.stalls, stall{s.Intended, s.Intended.Add(s.Late)})
	}
	// The gateway's deadline begins when a request is sent. That it was sent late is this machine's doing, and is told apart.
	tooLate := s.Took-s.Late > r.deadline+grace
	excused := s.EdDSA && !r.eddsaAble(s.Intended, end)
	switch {
	case errors.Is(s.Err, ask.ErrWrong):
		c.Wrong++
		sec.failed++
		r.breakLocked(noWrongAnswer, fmt.Sprintf("%s: %v", s.Question, s.Err), end)
	case excused && (s.Err != nil || tooLate):
		c.Excused++
	case s.Err != nil || tooLate:
		r.suspects = append(r.suspects, s)
	default:
		c.Right++
		sec.took = append(sec.took, s.Took)
	}
}

// judge decides about what failed or was late, when no more requests are under way.
func (r *record) judge() {
	for _, s := range r.suspects {
		c, sec, end := r.counts[s.Question], &r.seconds[int(s.Intended.Sub(r.begun)/time.Second)], s.Intended.Add(s.Took)
		switch {
		case slices.ContainsFunc(r.stalls, func(x stall) bool { return x.from.Before(end) && x.to.After(s.Intended) }):
			c.Stalled++
			continue
		case s.Err != nil:
			c.Failed++
			r.breakLocked(noFailure, fmt.Sprintf("%s: %v (after %s)", s.Question, s.Err, s.Took.Round(time.Millisecond)), end)
		default:
			c.Late++
			r.breakLocked(noLateAnswer, fmt.Sprintf("%s took %s", s.Question, (s.Took-s.Late).Round(time.Millisecond)), end)
		}
		sec.failed++
	}
	r.suspects = nil
	if t := r.stood(); t > time.Since(r.begun)/10 {
		r.breakLocked(canJudge, fmt.Sprintf("it stood still for %s", t.Round(time.Millisecond)), time.Now())
	}
}

// stood is for how long the machine stood still.
func (r *record) stood() (sum time.Duration) {
	slices.SortFunc(r.stalls, func(a, b stall) int { return a.from.Compare(b.from) })
	var until time.Time
	for _, s := range r.stalls {
		if s.from.Before(until) {
			s.from = until
		}
		if s.to.After(s.from) {
			sum += s.to.Sub(s.from)
			until = s.to
		}
	}
	return sum
}

// eddsaAble reports whether the spared members had Ed25519 all the time.
func (r *record) eddsaAble(from, to time.Time) bool {
	for i, s := range r.spared {
		ends := i+1 < len(r.spared) && r.spared[i+1].at.Before(from)
		if !ends && s.at.Before(to) && !r.members[s.member].EdDSA {
			return false
		}
	}
	return true
}

// spare says which member has no fault from now on.
func (r *record) spare(member int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spared = append(r.spared, sparing{time.Now(), member})
}

// sparedNow returns the member that has no fault and since when; ok is false before there is one.
func (r *record) sparedNow() (s sparing, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spared) == 0 {
		return s, false
	}
	return r.spared[len(r.spared)-1], true
}

// fault notes the begin of a fault and returns the function that notes its end.
func (r *record) fault(member, name string) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.faults)
	r.faults = append(r.faults, Fault{Member: member, Name: name, From: r.since(time.Now()), To: -1})
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.faults[n].To = r.since(time.Now())
	}
}

// state notes a member's state if it is another than before.
func (r *record) state(gateway int, member, state, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.states) - 1; i >= 0; i-- {
		if s := r.states[i]; s.Member == member && s.Gateway == gateway {
			if s.State == state {
				return
			}
			break
		}
	}
	r.states = append(r.states, State{gateway, member, state, reason, r.since(time.Now())})
}

// breaks notes a broken promise.
func (r *record) breaks(promise, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.breakLocked(promise, what, time.Now())
}

func (r *record) breakLocked(promise, what string, at time.Time) {
	n := 0
	for _, b := range r.broken {
		if b.Promise == promise {
			n++
		}
	}
	if n >= examples {
		return // counted by question
	}
	b := Broken{Promise: promise, What: what, At: r.since(at)}
	for _, s := range r.spared {
		if s.at.Before(at) {
			b.Spared = r.members[s.member].Record.Name
		}
	}
	for _, f := range r.faults {
		if f.From <= b.At && (f.To < 0 || f.To > b.At-r.deadline.Seconds()) {
			b.Faults = append(b.Faults, fmt.Sprintf("%s: %s (since %.1f)", f.Member, f.Name, f.From))
		}
	}
	r.broken = append(r.broken, b)
}
