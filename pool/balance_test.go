package pool

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// Members that keep failing without tripping their breakers must not use up the retry budget while another can serve.
func TestMembersThatKeepFailingAreAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, d := newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d")
		k := residentKey(t, a, b, c, d)
		p := newPool(t, Config{Attempts: 4}, a, b, c, d)
		defer p.Close()
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			f.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.KeyHandleInvalid, Function: hsm.FnSign}}) // Stale: no breaker counts it
		}
		const n = 20_000
		for i := range n {
			if err := mac(t, p, k); err != nil {
				t.Fatalf("operation %d: %v, though d can do it", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		if r := p.Stat().Retries; r > n/50 {
			t.Errorf("%d retries for %d operations", r, n)
		}
	})
}

// One bad moment must not keep a member idle for good where there are only two.
func TestAMemberThatFailedOnceIsUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		k := residentKey(t, a, b)
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		usual := hsmtest.Fault{Delay: time.Millisecond}
		a.Inject(hsmtest.OnSign, usual)
		b.Inject(hsmtest.OnSign, usual)
		for range 20 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		a.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceMemory, Function: hsm.FnSign}})
		for range 2500 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		a.Inject(hsmtest.OnSign, usual)
		for range 10_000 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		before := a.Count(hsmtest.OnSign)
		for range 5000 {
			if err := mac(t, p, k); err != nil {
				t.Fatal(err)
			}
		}
		if n := a.Count(hsmtest.OnSign) - before; n < 500 {
			t.Errorf("of 5000 operations a, which failed ten seconds ago, got %d", n)
		}
	})
}

// A member that hangs gets no more work than comes before its silence is noticed: who is sent there waits for half of his time.
func TestAMemberThatGivesNoAnswersIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c, d := newFaulty("a"), newFaulty("b"), newFaulty("c"), newFaulty("d")
		p, err := New(Config{Name: "test", Hedge: time.Hour}) // no sooner than half of a caller's time
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for i, f := range []*hsmtest.Faulty{a, b, c, d} {
			if err := p.Add(MemberConfig{Name: string(rune('a' + i)), Open: opened(f), Sessions: 16}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		for _, f := range []*hsmtest.Faulty{a, b, c, d} {
			doing(f, hsmtest.Fault{Delay: time.Millisecond})
		}
		var all sync.WaitGroup
		var slow atomic.Int64
		send := func(n int) {
			for range n {
				all.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					begun := time.Now()
					if _, err := p.Do(ctx, nil, random16); err != nil {
						t.Error(err)
					}
					if time.Since(begun) > time.Second {
						slow.Add(1)
					}
				})
				time.Sleep(3 * time.Millisecond)
			}
		}
		send(1000)
		release := make(chan struct{})
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			doing(f, hsmtest.Fault{Until: release})
		}
		send(700) // 2.1 s, less than it takes until a caller is sent on
		for _, f := range []*hsmtest.Faulty{a, b, c} {
			f.Heal(hsmtest.OnDo)
		}
		close(release)
		all.Wait()
		if n := slow.Load(); n > 120 || n == 0 {
			t.Errorf("%d of 700 operations were sent to members that hang; in a quarter of a second there come 80", n)
		}
	})
}
