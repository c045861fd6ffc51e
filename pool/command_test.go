package pool

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
)

func TestADrainThatWasBegunCanBeFinishedOrTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFaulty("b")
		p := newPool(t, Config{}, newFaulty("a"), b)
		defer p.Close()
		state := func() State { return p.Stat().Members[0].State }
		if err := p.BeginDrain("a", false); err != nil || state() != Draining {
			t.Fatalf("%v, %s", err, state())
		}
		if err := p.BeginDrain("b", false); !errors.Is(err, ErrLastMember) {
			t.Errorf("the other member while one drains: %v", err)
		}
		if err := p.Resume("a"); err != nil || state() != Active {
			t.Fatalf("taken back: %v, %s", err, state())
		}
		if err := p.BeginDrain("b", false); err != nil {
			t.Errorf("the other member, now that this one serves again: %v", err)
		}
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Error(err)
		}
		if err := p.Resume("b"); err != nil {
			t.Fatal(err)
		}
		if err := p.BeginDrain("a", false); err != nil {
			t.Fatal(err)
		}
		b.Kill() // what was decided stays decided
		synctest.Wait()
		if err := p.Drain(t.Context(), "a", false); err != nil || state() != Drained {
			t.Errorf("finished: %v, %s", err, state())
		}
		if err := p.BeginDrain("a", false); err != nil {
			t.Errorf("begun again: %v", err)
		}
	})
}

func TestALatchSetElsewhereKeepsAMemberFromLoggingInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{}, &opens, a, newFaulty("a"))
		defer p.Close()
		if err := p.Latch("a", "wrong PIN on another gateway"); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Errorf("a member that is logged in: %v", err)
		}
		a.Kill()
		time.Sleep(time.Hour)
		if s := p.Stat().Members[0]; s.State != Latched || s.Reason == "" || opens.Load() != 1 {
			t.Errorf("after its token was lost: %s (%s), opened %d times", s.State, s.Reason, opens.Load())
		}
		if err := p.ClearLatch("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s := p.Stat().Members[0]; s.State != Active || opens.Load() != 2 {
			t.Errorf("after clearing: %s, opened %d times", s.State, opens.Load())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int64
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		open := func(context.Context) (hsm.Token, error) {
			opens.Add(1)
			return nil, &hsm.Error{Code: hsm.TokenNotPresent, Function: hsm.FnInitialize}
		}
		if err := p.Add(MemberConfig{Name: "a", Open: open}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := opens.Load()
		if err := p.Latch("a", "wrong PIN on another gateway"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if s := p.Stat().Members[0]; s.State != Latched || opens.Load() != before {
			t.Errorf("one that was being opened: %s, tried %d times more", s.State, opens.Load()-before)
		}
	})
}

// An order that waited while its member was removed must not open the token again: the pool's Close knows nothing of it.
func TestARemovedMemberIsNotStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a, newFaulty("b"))
		defer p.Close()
		m, err := p.known("a") // as Resume and ClearLatch do before it is their turn
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Remove(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		if err := p.again(m); !errors.Is(err, ErrMember) {
			t.Errorf("a removed member: %v", err)
		}
		synctest.Wait()
		if s, _ := m.current(); s != Drained {
			t.Errorf("it is %s", s)
		}
	})
}
