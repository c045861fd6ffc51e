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

// What was decided stays decided when the worker of a draining member is lost and opened anew, and when the member was only
// joining when its drain was begun.
func TestABegunDrainOutlivesTheOpeningOfTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFaulty("b")
		p := newPool(t, Config{}, newFaulty("a"), b)
		defer p.Close()
		var opens atomic.Int64
		lost, fresh := newFaulty("c"), newFaulty("c")
		open := reopening(&opens, lost, fresh)
		slow := func(ctx context.Context) (hsm.Token, error) { time.Sleep(time.Second); return open(ctx) }
		if err := p.Add(MemberConfig{Name: "c", Sessions: 2, Open: slow}); err != nil {
			t.Fatal(err)
		}
		if err := p.BeginDrain("c", false); err != nil {
			t.Fatal(err)
		}
		state := func() State { return p.Stat().Members[2].State }
		for _, f := range []*hsmtest.Faulty{lost, fresh} {
			time.Sleep(5 * time.Second)
			before := f.Count(hsmtest.OnRandom)
			for range 100 {
				if _, err := p.Do(t.Context(), nil, random16); err != nil {
					t.Fatal(err)
				}
			}
			if n := f.Count(hsmtest.OnRandom) - before; n > 1 || state() != Draining { // one canary, perhaps
				t.Errorf("a member whose drain was begun got %d operations and is %s", n, state())
			}
			f.Kill()
		}
		b.Kill()
		synctest.Wait()
		if err := p.Drain(t.Context(), "c", false); err != nil || state() != Drained {
			t.Errorf("finished: %v, %s", err, state())
		}
	})
}

// Taken back while its token is being opened, a member serves as soon as it is open.
func TestABegunDrainIsTakenBackWhileTheTokenIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{}, &opens, a, newFaulty("a"))
		defer p.Close()
		if err := p.BeginDrain("a", true); err != nil {
			t.Fatal(err)
		}
		a.Kill()
		synctest.Wait()
		if err := p.Resume("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := p.Do(t.Context(), nil, random16); err != nil || p.Stat().Members[0].State != Active {
			t.Errorf("%v, %s", err, p.Stat().Members[0].State)
		}
	})
}

// A session that is lost while the member drains is replaced, and what waits is done there: nobody else may be able to.
func TestADrainingMemberReplacesALostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 100 * time.Millisecond, Err: &hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnRandom}, Lose: true, Times: 2})
		var wg sync.WaitGroup
		for range 6 {
			synctest.Wait() // until the sessions have taken what they can, so that the others find room in the queue
			wg.Go(func() {
				if _, err := p.Do(t.Context(), nil, random16); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		if err := p.Drain(t.Context(), "a", true); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// Work that never reached the token says nothing about it: a member whose drain was cut short serves at once when it is resumed.
func TestWhatADrainGivesUpIsNotHeldAgainstTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var opens atomic.Int64
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Queue: 64, Open: reopening(&opens, a, newFaulty("a"))}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		doing(a, hsmtest.Fault{Delay: 500 * time.Millisecond})
		for range 40 {
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.Drain(ctx, "a", true); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%v, want the drain's deadline", err)
		}
		if err := p.Resume("a"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := p.Stat().Members[0]; s.State != Active || s.Breaker != "closed" {
			t.Errorf("resumed it is %s, breaker %s", s.State, s.Breaker)
		}
	})
}

// A drain waits for nothing that was given up: its caller has gone, and nobody would hear of the result.
func TestADrainDoesNotWaitForWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: 10 * time.Second}, a, newFaulty("b"))
		defer p.Close()
		release := make(chan struct{})
		doing(a, hsmtest.Fault{Until: release})
		defer close(release)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for p.Stat().Members[0].Operations+uint64(p.Stat().Members[0].Busy) == 0 {
			_, _ = p.Do(ctx, nil, random16)
		}
		begun := time.Now()
		order, done := context.WithTimeout(t.Context(), 10*time.Minute)
		defer done()
		if err := p.Drain(order, "a", false); err != nil || time.Since(begun) > 15*time.Second {
			t.Errorf("after %s: %v, want a drain that ends when the operation was given up, after 10 s", time.Since(begun), err)
		}
	})
}

func TestADrainedMemberIsSentNoCanaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Minute}, a, newFaulty("b"))
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 30 * time.Second, Times: 1})
		for p.Stat().Members[0].Busy == 0 {
			go func() { _, _ = p.Do(context.WithoutCancel(t.Context()), nil, random16) }()
			synctest.Wait()
		}
		before := a.Count(hsmtest.OnDo)
		if err := p.Drain(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		if n := a.Count(hsmtest.OnDo) - before; n != 0 {
			t.Errorf("%d operations more on a member that is drained", n)
		}
	})
}
