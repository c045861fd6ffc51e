//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"keyway/lifecycle"
	"keyway/loadtest/ask"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
)

// fakeMembers are members that are only named.
func fakeMembers() []*token {
	var all []*token
	for _, k := range kinds {
		t := &token{Token: &rig.Token{Record: lifecycle.MemberRecord{Name: k.name}, EdDSA: k.module == "softhsm"}}
		if k.faulty {
			t.Module = &faulthsm.Module{}
		}
		all = append(all, t)
	}
	return all
}

func allFaults() [][]*fault {
	var out [][]*fault
	for _, m := range fakeMembers() {
		out = append(out, faultsOf(m, settings{}))
	}
	return append(out, visits())
}

func describe(p plan) string {
	var b strings.Builder
	for _, x := range p {
		fmt.Fprintf(&b, "%d %d %s:", x.spared, x.next, x.lasts)
		for _, l := range x.lanes {
			for _, e := range l {
				fmt.Fprintf(&b, " %s %s %s;", e.after, e.fault.name, e.lasts)
			}
		}
	}
	return b.String()
}

func TestAPlanFollowsFromItsSeedAndSparesAMember(t *testing.T) {
	s, err := parse([]string{"-time", "1h", "-seed", "5"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	faults := allFaults()
	p := newPlan(s, faults, len(kinds))
	if describe(p) != describe(newPlan(s, faults, len(kinds))) {
		t.Error("the same seed, another plan")
	}
	other := s
	other.seed++
	if describe(p) == describe(newPlan(other, faults, len(kinds))) {
		t.Error("another seed, the same plan")
	}
	seen := map[string]bool{}
	total := time.Duration(0)
	for i, x := range p {
		total += x.lasts
		if len(x.lanes[x.spared]) > 0 {
			t.Errorf("part %d: the spared member has faults", i)
		}
		if x.next == x.spared || i+1 < len(p) && p[i+1].spared != x.next {
			t.Errorf("part %d: next is %d", i, x.next)
		}
		for _, l := range x.lanes {
			for _, e := range l {
				seen[e.fault.name] = true
			}
		}
	}
	if total != s.time {
		t.Errorf("planned for %s", total)
	}
	for _, fs := range faults {
		for _, f := range fs {
			if !seen[f.name] {
				t.Errorf("%q does not come up in an hour", f.name)
			}
		}
	}
}

func TestWhatBreaksAPromise(t *testing.T) {
	const deadline = 5 * time.Second
	begun := time.Now().Add(-time.Minute)
	sample1 := func(at, took time.Duration, err error, eddsa bool) ask.Sample {
		return ask.Sample{Question: "q", Intended: begun.Add(at), Took: took, Err: err, EdDSA: eddsa}
	}
	for _, c := range []struct {
		name   string
		s      ask.Sample
		spared int // softhsm 0, nss 1
		want   Count
		broken string
	}{
		{"right", sample1(time.Second, time.Millisecond, nil, false), 1, Count{Right: 1}, ""},
		{"failed", sample1(time.Second, time.Millisecond, errors.New("502"), false), 1, Count{Failed: 1}, noFailure},
		{"late", sample1(time.Second, deadline+grace+1, nil, false), 1, Count{Late: 1}, noLateAnswer},
		{"sent late, answered in time", ask.Sample{Question: "q", Intended: begun, Took: deadline + 2*time.Second, Late: 2 * time.Second}, 1, Count{Right: 1}, ""},
		{"just in time", sample1(time.Second, deadline+grace, nil, false), 1, Count{Right: 1}, ""},
		{"wrong", sample1(time.Second, time.Millisecond, fmt.Errorf("%w: x", ask.ErrWrong), false), 1, Count{Wrong: 1}, noWrongAnswer},
		{"Ed25519 without a token that has it", sample1(time.Second, time.Millisecond, errors.New("503"), true), 1, Count{Excused: 1}, ""},
		{"Ed25519 with one", sample1(time.Second, time.Millisecond, errors.New("503"), true), 0, Count{Failed: 1}, noFailure},
		{"a wrong one is never excused", sample1(time.Second, time.Millisecond, fmt.Errorf("%w: x", ask.ErrWrong), true), 1, Count{Wrong: 1}, noWrongAnswer},
	} {
		r := newRecord(begun, deadline, fakeMembers())
		r.spared = []sparing{{begun, c.spared}}
		r.sample(c.s)
		r.judge()
		if got := *r.counts["q"]; got != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
		if got := r.broken; (c.broken == "") != (len(got) == 0) || c.broken != "" && got[0].Promise != c.broken {
			t.Errorf("%s: broken %v, want %q", c.name, got, c.broken)
		}
	}
	// While the machine stands still nothing is said about time, and a wrong answer is wrong; but it must not stand still for long.
	stood := newRecord(begun, deadline, fakeMembers())
	stood.spared = []sparing{{begun, 0}}
	stood.sample(ask.Sample{Question: "q", Intended: begun.Add(time.Second), Took: 2 * time.Second, Late: 2 * time.Second})
	stood.sample(sample1(2*time.Second, time.Second, errors.New("504"), false))
	stood.sample(sample1(2*time.Second, time.Second, fmt.Errorf("%w: x", ask.ErrWrong), false))
	stood.sample(sample1(4*time.Second, time.Second, errors.New("504"), false))
	stood.judge()
	if got, want := *stood.counts["q"], (Count{Right: 1, Wrong: 1, Failed: 1, Stalled: 1}); got != want || stood.stood() != 2*time.Second || len(stood.broken) != 2 {
		t.Errorf("around a stall: %+v, want %+v; stood %s; broken %v", got, want, stood.stood(), stood.broken)
	}
	stood.sample(ask.Sample{Question: "q", Intended: begun.Add(2 * time.Second), Took: 7 * time.Second, Late: 7 * time.Second})
	stood.judge()
	if last := stood.broken[len(stood.broken)-1]; last.Promise != canJudge {
		t.Errorf("a machine that stood still for %s of a minute: %+v", stood.stood(), last)
	}
	// Spared later than the request ended is no excuse.
	r := newRecord(begun, deadline, fakeMembers())
	r.spared = []sparing{{begun, 0}, {begun.Add(10 * time.Second), 1}}
	if !r.eddsaAble(begun.Add(time.Second), begun.Add(2*time.Second)) || r.eddsaAble(begun.Add(9*time.Second), begun.Add(11*time.Second)) || r.eddsaAble(begun.Add(11*time.Second), begun.Add(12*time.Second)) {
		t.Error("who could sign with Ed25519 when")
	}
}

func TestWhatIsLeftBehind(t *testing.T) {
	at := func(goroutines, files, sessions int) Resources {
		return Resources{Goroutines: goroutines, Files: files, Members: map[string]MemberResources{"m": {Sessions: sessions}}}
	}
	before := at(100, 20, 16)
	for _, c := range []struct {
		after Resources
		idle  int
		want  int
	}{{before, 0, 0}, {at(110, 25, 16), 0, 0}, {at(150, 20, 16), 0, 1}, {at(150, 20, 16), 40, 0}, {at(100, 60, 16), 40, 1}, {at(100, 20, 15), 0, 1}, {at(300, 90, 4), 0, 3}, {Resources{}, 0, 1}} {
		if got := leftBehind(before, c.after, c.idle); len(got) != c.want {
			t.Errorf("%+v: %q, want %d complaints", c.after, got, c.want)
		}
	}
}

func TestThePageIsWholeAndEscapes(t *testing.T) {
	r := &Report{
		Seed: 3, Deadline: 5, Command: "go run", Counts: map[string]*Count{"q<b>": {Right: 1, Failed: 2}}, Members: []string{"a", "b"}, Seconds: []Second{{Latency{1, 2, 3}, 10, 0}, {Latency{}, 0, 2}},
		Faults: []Fault{{"a", "<script>", 0, 1}}, States: []State{{1, "a", "active", "", 0}, {1, "a", "ejected", "a<b", .5}}, Spared: []Fault{{"b", "spared", 0, 2}},
		Broken: []Broken{{Promise: noFailure, What: "<i>", At: 1, Faults: []string{"a: <script>"}}},
	}
	b, err := r.page()
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	for _, bad := range []string{"<script>", "<i>,", "q<b>", "ZgotmplZ", "NaN", "http://", "https://"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q in it", bad)
		}
	}
	for _, good := range []string{"&lt;script&gt;", "promises were broken", `class="failed"`, `class="ejected"`, `class="spared"`, `class="broken"`, "</html>"} {
		if !strings.Contains(page, good) {
			t.Errorf("the page lacks %q", good)
		}
	}
}

func TestLatencyOf(t *testing.T) {
	var took []time.Duration
	for i := 100; i > 0; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	if got, want := latencyOf(took), (Latency{51, 100, 100}); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if latencyOf(nil) != (Latency{}) {
		t.Error("of nothing")
	}
}

func TestParse(t *testing.T) {
	var out bytes.Buffer
	for _, args := range [][]string{{"-time", "0s"}, {"-rate", "0"}, {"-rate", "200000"}, {"more"}, {"-nonsense"}} {
		if _, err := parse(args, &out); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	if s, err := parse(nil, &out); err != nil || s.seed == 0 || s.time != 10*time.Minute || s.rate != 300 {
		t.Errorf("%+v, %v", s, err)
	}
}
