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

// A latch is stored before anybody can see it, and so before anybody can clear it: else the record would outlive the clearing.
func TestALatchIsStoredBeforeItCanBeCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		stored := make(chan struct{})
		err = p.Add(MemberConfig{Name: "a", OnLatch: func(string, string) { <-stored }, Open: func(context.Context) (hsm.Token, error) {
			return nil, &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := p.Stat().Members[0].State; s != Joining {
			t.Errorf("while its latch is being stored the member is %s", s)
		}
		if err := p.ClearLatch("a"); !errors.Is(err, ErrMember) {
			t.Errorf("cleared while it is being stored: %v", err)
		}
		close(stored)
		synctest.Wait()
		if s := p.Stat().Members[0].State; s != Latched {
			t.Errorf("when it is stored the member is %s", s)
		}
	})
}

// A latch that was set elsewhere and cleared before it took effect takes none.
func TestALatchClearedInTimeTakesNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var opens atomic.Int64
		err = p.Add(MemberConfig{Name: "a", Open: func(context.Context) (hsm.Token, error) {
			opens.Add(1)
			return nil, &hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnInitialize}
		}})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			time.Sleep(10 * time.Minute)
			before := opens.Load()
			if err := errors.Join(p.Latch("a", "elsewhere"), p.ClearLatch("a")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Minute)
			if s := p.Stat().Members[0].State; s != Joining || opens.Load() < before+5 {
				t.Fatalf("the member is %s, opened %d times since", s, opens.Load()-before)
			}
		}
	})
}

// Whatever operators order at once, and whenever the pool closes meanwhile, Close returns, nobody waits for ever, and no token
// stays open. In real time: commands wait for each other in a way that fake time does not go past.
func TestCloseDuringEverything(t *testing.T) {
	var runs sync.WaitGroup
	for i := range 60 {
		runs.Go(func() { closeDuringEverything(t, i) })
	}
	ended := make(chan struct{})
	go func() {
		runs.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("something waits for ever")
	}
}

func closeDuringEverything(t *testing.T, i int) {
	p, err := New(Config{Name: "test"})
	if err != nil {
		t.Error(err)
		return
	}
	var open atomic.Int64
	members := []string{"a", "b", "c"}
	for _, n := range members {
		f := func(ctx context.Context) (hsm.Token, error) {
			if !pause(ctx, 7*time.Millisecond) {
				return nil, ctx.Err()
			}
			open.Add(1)
			return counted{newFaulty(n), &open}, nil
		}
		if err := p.Add(MemberConfig{Name: n, Sessions: 2, Open: f}); err != nil {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	for o, order := range []func(string) error{
		func(n string) error { return p.Drain(t.Context(), n, true) },
		func(n string) error { return p.BeginDrain(n, true) },
		p.Resume, p.ClearLatch,
		func(n string) error { return p.Latch(n, "elsewhere") },
		func(n string) error { return p.Remove(t.Context(), n, i%2 == 0) },
		func(string) error { _, err := p.Do(t.Context(), nil, random16); return err },
	} {
		for k, n := range members {
			all.Go(func() {
				time.Sleep(time.Duration((i*(k+1)+k+5*o)%23) * time.Millisecond)
				_ = order(n)
			})
		}
	}
	time.Sleep(time.Duration(i%27) * time.Millisecond)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if n := open.Load(); n != 0 {
		t.Errorf("run %d: %d tokens are open after Close", i, n)
	}
	all.Wait()
	if n := open.Load(); n != 0 {
		t.Errorf("run %d: %d tokens are open after everything", i, n)
	}
}

// counted counts open tokens.
type counted struct {
	*hsmtest.Faulty
	open *atomic.Int64
}

func (c counted) Close() error {
	c.open.Add(-1)
	return c.Faulty.Close()
}
