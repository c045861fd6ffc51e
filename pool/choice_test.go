package pool

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// shares lets callers ask as fast as they are answered for a time, and returns how many operations each token got.
func shares(t *testing.T, p *Pool, callers int, d time.Duration, op hsm.Op, calls hsmtest.Calls, tokens ...*hsmtest.Faulty) []int {
	t.Helper()
	before := make([]int, len(tokens))
	for i, f := range tokens {
		before[i] = f.Count(calls)
	}
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for range callers {
		all.Go(func() {
			for time.Now().Before(end) {
				if _, err := p.Do(t.Context(), nil, op); err != nil && hsm.FaultOf(err) != hsm.Caller {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for i, f := range tokens {
		before[i] = f.Count(calls) - before[i]
	}
	return before
}

// wide is a pool of members with many sessions and without slow start.
func wide(t *testing.T, cfg Config, tokens ...*hsmtest.Faulty) *Pool {
	t.Helper()
	cfg.Name = "test"
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range tokens {
		if err := p.Add(MemberConfig{Name: string(rune('a' + i)), Open: opened(f), Sessions: 64}); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	return p
}

// Of equal members each gets its share, a slow one gets as much less as it is slower, and the measure is kept by class: one that is
// slow at one class gets its share of another.
func TestWorkGoesWhereItIsDoneSoonest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := newFaulty("a"), newFaulty("b"), newFaulty("c")
		p := wide(t, Config{SlowStart: time.Nanosecond}, a, b, c)
		defer p.Close()
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			f.Inject(hsmtest.OnRandom, hsmtest.Fault{Delay: 4 * time.Millisecond})
			f.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Delay: 4 * time.Millisecond, Err: &hsm.Error{Code: hsm.EncryptedDataInvalid, Function: hsm.FnDecrypt}})
		}
		for i, n := range shares(t, p, 30, 4*time.Second, random16, hsmtest.OnRandom, a, b, c) {
			if n < 8000 || n > 12_000 {
				t.Errorf("of 30,000 operations member %d of three equal ones got %d", i, n)
			}
		}
		a.Inject(hsmtest.OnRandom, hsmtest.Fault{Delay: 40 * time.Millisecond})
		got := shares(t, p, 30, 4*time.Second, random16, hsmtest.OnRandom, a, b, c)
		if got[0]*4 > got[1] || got[0]*4 > got[2] || got[0] == 0 {
			t.Errorf("a member that takes ten times as long got %d, the others %d and %d", got[0], got[1], got[2])
		}
		decrypt := hsm.Op{Kind: hsm.OpDecrypt}
		got = shares(t, p, 30, time.Second, decrypt, hsmtest.OnDecrypt, a, b, c)
		if got[0]*2 < got[1] {
			t.Errorf("slow at random bytes only, it got %d decryptions, another %d", got[0], got[1])
		}
	})
}

// While some calls are slow, what comes goes to members that have less under way, though their averages are the same.
func TestTheOneWithLessUnderWayIsChosen(t *testing.T) {
	var a, b load
	for _, l := range []*load{&a, &b} {
		l.observe(ClassSign, time.Millisecond, time.Now().UnixNano())
	}
	a.begin(time.Now())
	a.begin(time.Now())
	now := time.Now().UnixNano()
	if x, y := a.cost(ClassSign, 0, now), b.cost(ClassSign, 0, now); x < 2.5*y {
		t.Errorf("with two under way a member costs %.0f, with none %.0f", x, y)
	}
	// The average jumps up at once and comes down slowly.
	b.observe(ClassSign, 100*time.Millisecond, time.Now().UnixNano())
	if d := b.latency(ClassSign); d != 100*time.Millisecond {
		t.Errorf("after an answer of 100 ms the average is %s", d)
	}
	b.observe(ClassSign, time.Millisecond, time.Now().UnixNano())
	if d := b.latency(ClassSign); d < 80*time.Millisecond {
		t.Errorf("one fast answer later it is %s", d)
	}
	if d := b.latency(ClassDecrypt); d != 0 {
		t.Errorf("an average of %s for a class that was never asked for", d)
	}
	// A failure counts as a slow success, however fast it came.
	var c load
	c.observe(ClassSign, time.Millisecond, time.Now().UnixNano())
	c.penalise(ClassSign, time.Now().UnixNano())
	if d := c.latency(ClassSign); d < 20*time.Millisecond {
		t.Errorf("after a fast failure the average is %s", d)
	}
}

// A member that has just joined, or joined again, gets less than its share at first, and its share later.
func TestAMemberThatJoinedIsStartedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, again := newFaulty("a"), newFaulty("b"), newFaulty("b")
		p := wide(t, Config{}, a)
		defer p.Close()
		usual := hsmtest.Fault{Delay: 4 * time.Millisecond}
		a.Inject(hsmtest.OnRandom, usual)
		time.Sleep(10 * time.Second)
		next := b
		open := func(context.Context) (hsm.Token, error) { f := next; next = again; return f, nil }
		if err := p.Add(MemberConfig{Name: "b", Open: open, Sessions: 64}); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*hsmtest.Faulty{b, again} {
			synctest.Wait()
			f.Inject(hsmtest.OnRandom, usual)
			got := shares(t, p, 20, 200*time.Millisecond, random16, hsmtest.OnRandom, a, f)
			if got[1]*3 > got[0] || got[1] == 0 {
				t.Errorf("in the first fifth of a second it got %d, the other %d", got[1], got[0])
			}
			time.Sleep(2 * time.Second)
			got = shares(t, p, 20, time.Second, random16, hsmtest.OnRandom, a, f)
			if got[1]*5 < got[0]*4 {
				t.Errorf("when it is there for long it got %d, the other %d", got[1], got[0])
			}
			f.Kill()
			synctest.Wait()
			for f == b && p.Stat().Members[1].State != Active {
				time.Sleep(time.Millisecond)
			}
		}
	})
}

// The two candidates are random ones: of members that are all the same, each is chosen as often as another.
func TestNoMemberIsChosenOutOfHabit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := wide(t, Config{SlowStart: time.Nanosecond}, newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d"))
		defer p.Close()
		time.Sleep(time.Second)
		chosen := map[*member]int{}
		for range 8000 {
			m, _ := p.pick(ClassSign, false, (*member).able)
			chosen[m]++
		}
		for m, n := range chosen {
			if n < 1600 || n > 2400 {
				t.Errorf("member %s was chosen %d times of 8000", m.cfg.Name, n)
			}
		}
		if len(chosen) != 4 {
			t.Errorf("%d of 4 members were chosen at all", len(chosen))
		}
	})
}
