package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

func TestCallersOfAHungMemberAreServedElsewhereInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{OpTimeout: time.Minute}, a)
		defer p.Close()
		release := make(chan struct{})
		doing(a, hsmtest.Fault{Until: release})
		var wg sync.WaitGroup
		for range 6 { // two hang in the token, the others wait behind them
			synctest.Wait()
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				begun := time.Now()
				if _, err := p.Do(ctx, nil, random16); err != nil || time.Since(begun) > 2*time.Second+watchEvery {
					t.Errorf("after %s: %v, want a result from the other member after half the time", time.Since(begun), err)
				}
			})
		}
		synctest.Wait()
		if err := p.Add(MemberConfig{Name: "b", Open: opened(b), Sessions: 2}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		s := p.Stat().Members[0]
		if s.Slow != 6 {
			t.Errorf("%d were sent on, want 6", s.Slow)
		}
		if s.Breaker != "closed" || s.Hung != 0 {
			t.Errorf("impatient callers counted against the device: breaker %s, %d hung", s.Breaker, s.Hung)
		}
		close(release)
	})
}

func TestTheLastMemberIsWaitedForToTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 3 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, err := p.Do(ctx, nil, random16); err != nil {
			t.Errorf("with 3 of 4 seconds used: %v", err)
		}
	})
}

func TestAHungLibraryInThisProcessIsNotOpenedAgainUntilItsCallsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{OpTimeout: time.Second}, &opens, inProcess{a}, inProcess{newFaulty("a")})
		defer p.Close()
		release := make(chan struct{})
		doing(a, hsmtest.Fault{Until: release})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := p.Do(t.Context(), nil, random16); !errors.Is(err, ErrDevice) {
					t.Errorf("a hung operation: %v", err)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Hour)
		if n := opens.Load(); n != 1 {
			t.Errorf("opened %d times while its calls hang: threads pile up", n)
		}
		close(release)
		time.Sleep(time.Minute)
		if _, err := p.Do(t.Context(), nil, random16); err != nil || opens.Load() != 2 {
			t.Errorf("after the calls returned: %v, opened %d times", err, opens.Load())
		}
	})
}

// inProcess is a token that nobody can kill, as a library in this process is.
type inProcess struct{ hsm.Token }

func TestABusyTokenIsAskedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 16, Open: opened(a)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.FunctionFailed, Function: hsm.FnSign, Vendor: hsm.VendorCloudHSM}})
		for range 20 {
			_, err := p.Do(t.Context(), nil, random16)
			if !errors.Is(err, ErrOverloaded) {
				t.Fatalf("a busy token: %v, want overloaded", err)
			}
			time.Sleep(time.Millisecond)
		}
		if s := p.Stat().Members[0]; s.Permits != 1 || s.Breaker != "closed" {
			t.Errorf("%d permits, breaker %s; want 1 and closed", s.Permits, s.Breaker)
		}
		a.Heal(hsmtest.OnDo)
		for range 200 { // one at a time, which proves nothing about two
			if _, err := p.Do(t.Context(), nil, random16); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if s := p.Stat().Members[0]; s.Permits > 2 {
			t.Errorf("%d permits after successes of one at a time", s.Permits)
		}
		time.Sleep(forgetWall)
		for range 200 {
			if _, err := p.Do(t.Context(), nil, random16); err != nil {
				t.Fatal(err)
			}
		}
		if s := p.Stat().Members[0]; s.Permits != 16 {
			t.Errorf("%d permits a minute later, want 16", s.Permits)
		}
		// With one permit no second operation enters the token.
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceMemory, Function: hsm.FnSign}})
		for p.Stat().Members[0].Permits > 1 {
			_, _ = p.Do(t.Context(), nil, random16)
			time.Sleep(time.Millisecond)
		}
		a.Heal(hsmtest.OnDo)
		doing(a, hsmtest.Fault{Delay: time.Second})
		begun := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = p.Do(t.Context(), nil, random16) })
		}
		wg.Wait()
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("two operations of a second each took %s with one permit", took)
		}
	})
}

func TestHedgingCutsOffSlowAnswersWithinTheBudget(t *testing.T) {
	f := func(hedge time.Duration) (slowest time.Duration, retries uint64) {
		synctest.Test(t, func(t *testing.T) {
			a, b := newFaulty("a"), newFaulty("b")
			p := newPool(t, Config{Hedge: hedge, SlowStart: time.Nanosecond}, a, b)
			defer p.Close()
			for i := range 2000 {
				doing(a, hsmtest.Fault{Delay: time.Millisecond})
				doing(b, hsmtest.Fault{Delay: time.Millisecond})
				if i%100 == 99 { // one member thinks for a second, now and then
					doing(a, hsmtest.Fault{Delay: time.Second * time.Duration(i/100%2)})
					doing(b, hsmtest.Fault{Delay: time.Second * time.Duration(1-i/100%2)})
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				begun := time.Now()
				if _, err := p.Do(ctx, nil, random16); err != nil {
					t.Fatal(err)
				}
				slowest = max(slowest, time.Since(begun))
				cancel()
				time.Sleep(10 * time.Millisecond)
			}
			retries = p.Stat().Retries
		})
		return slowest, retries
	}
	if slowest, retries := f(time.Hour); slowest < time.Second || retries != 0 {
		t.Errorf("without hedging: slowest %s, %d retries", slowest, retries)
	}
	if slowest, retries := f(30 * time.Millisecond); slowest > 60*time.Millisecond || retries == 0 || retries > 400 {
		t.Errorf("with hedging after 30 ms: slowest %s, %d retries; the budget is 400", slowest, retries)
	}
}

func TestWithoutBudgetNobodyIsSentOnOnlyToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{Hedge: 50 * time.Millisecond, RetryRatio: 1e-9, OpTimeout: time.Minute}, a, b)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: time.Second})
		doing(b, hsmtest.Fault{Delay: time.Second})
		for range 10 { // what a quiet pool has saved
			p.budget.spend()
		}
		var wg sync.WaitGroup
		for range 8 {
			synctest.Wait() // until the sessions have taken what they can, so that the others find room in the queues
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if _, err := p.Do(ctx, nil, random16); err != nil {
					t.Errorf("slow, but not failing: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func TestRetryAfterTellsTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{SlowStart: time.Nanosecond}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 100 * time.Millisecond})
		for range 4 { // the pool learns how long an operation takes
			_, _ = p.Do(t.Context(), nil, random16)
		}
		for range 6 {
			synctest.Wait()
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
		}
		synctest.Wait()
		_, err := p.Do(t.Context(), nil, random16)
		var r *Refusal
		if !errors.As(err, &r) || r.RetryAfter < 100*time.Millisecond || r.RetryAfter > 400*time.Millisecond {
			t.Fatalf("with four waiting for two sessions of 100 ms: %v", err)
		}
		time.Sleep(r.RetryAfter)
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Errorf("after waiting as told: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int64
		a, b := newFaulty("a"), newFaulty("a")
		p := reopenable(t, Config{}, &opens, a, b)
		defer p.Close()
		a.Kill()
		synctest.Wait()
		_, err := p.Do(t.Context(), nil, random16)
		var r *Refusal
		if !errors.As(err, &r) || !errors.Is(err, ErrUnavailable) {
			t.Fatalf("with the only worker gone: %v", err)
		}
		time.Sleep(r.RetryAfter)
		synctest.Wait()
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Errorf("after %s, as told: %v", r.RetryAfter, err)
		}
	})
}

func TestHedgingStaysWithinTheRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test", Hedge: 40 * time.Millisecond, RetryRatio: 0.05})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for _, n := range []string{"a", "b"} {
			f := newFaulty(n)
			if err := p.Add(MemberConfig{Name: n, Sessions: 64, Open: opened(f)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			doing(f, hsmtest.Fault{Delay: 100 * time.Millisecond}) // every answer is slow: hedging cannot help, only cost
		}
		begun := time.Now()
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 50 {
					if _, err := p.Do(t.Context(), nil, random16); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		most := retriesPerSecond*(1+time.Since(begun).Seconds()) + 0.05*64*50
		if n := p.Stat().Retries; float64(n) > most || n < 50 {
			t.Errorf("%d retries in %s, at most %.0f are allowed", n, time.Since(begun), most)
		}
	})
}
