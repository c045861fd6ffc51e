package pool

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/lifecycle/key"
)

// reopening is a member's Open that counts, and hands out the tokens one after another.
func reopening(opens *atomic.Int64, tokens ...hsm.Token) func(context.Context) (hsm.Token, error) {
	return func(context.Context) (hsm.Token, error) {
		n := int(opens.Add(1))
		return tokens[min(n, len(tokens))-1], nil
	}
}

// reopenable is a pool whose one member opens the tokens one after another. The caller closes it.
func reopenable(t *testing.T, cfg Config, opens *atomic.Int64, tokens ...hsm.Token) *Pool {
	t.Helper()
	cfg.Name = "test"
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: reopening(opens, tokens...)}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return p
}

func TestALostLoginIsFoundByTheCanaryAndTheTokenOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{}, &opens, a, newFaulty("a"))
		defer p.Close()
		a.Inject(hsmtest.OnKey|hsmtest.OnGenerate, hsmtest.Fault{Err: errLogin})
		time.Sleep(30 * time.Second) // two canaries and a back-off
		if opens.Load() != 2 {
			t.Errorf("opened %d times after the login was lost, want 2", opens.Load())
		}
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Error(err)
		}
	})
}

func TestACanaryWhoseSessionWentIsMadeAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		var opens atomic.Int64
		p := reopenable(t, Config{}, &opens, a)
		defer p.Close()
		g := p.find("a").gen.Load()
		old := g.canary.Load()
		err := p.With(t.Context(), func(k hsm.Keeper) error { return k.Destroy(hsm.Handle(old)) })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		if s := p.Stat().Members[0]; opens.Load() != 1 || !s.LastCanaryOK || g.canary.Load() == old {
			t.Errorf("opened %d times, canary ok %t, same key %t", opens.Load(), s.LastCanaryOK, g.canary.Load() == old)
		}
	})
}

func TestAMemberThatHangsWhileItJoinsIsKilledAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		a.Inject(hsmtest.OnDo|hsmtest.OnFind, hsmtest.Fault{Until: make(chan struct{})}) // already the canary's first call does not return
		var opens atomic.Int64
		p, err := New(Config{Name: "test", JoinTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		id := key.NewID()
		err = p.Add(MemberConfig{Name: "a", Sessions: 2, KEK: id[:], Open: reopening(&opens, a), Provision: func(context.Context, hsm.Keeper) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Millisecond)
		if s := p.Stat().Members[0]; s.State != Joining || s.Reason == "" {
			t.Errorf("state %s, reason %q", s.State, s.Reason)
		}
		select {
		case <-a.Done():
		default:
			t.Error("the worker that hung was not killed")
		}
		time.Sleep(5 * time.Second)
		if opens.Load() < 2 {
			t.Error("it was not tried again")
		}
	})
}

func TestAWorkerThatLeaksIsReplacedWhileAnotherServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &leaky{Faulty: newFaulty("a")}, newFaulty("b")
		fresh := &leaky{Faulty: newFaulty("a")}
		a.memory.Store(1 << 20)
		var opens atomic.Int64
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: reopening(&opens, a, fresh), MaxMemory: 2 << 20}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		a.memory.Store(3 << 20)
		time.Sleep(time.Minute)
		if opens.Load() != 1 {
			t.Fatal("the only member was replaced, and nobody served meanwhile")
		}
		if err := p.Add(MemberConfig{Name: "b", Sessions: 2, Open: opened(b)}); err != nil {
			t.Fatal(err)
		}
		for range 3000 {
			if _, err := p.Do(t.Context(), nil, random16); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if s := p.Stat().Members[0]; opens.Load() != 2 || s.State != Active || s.Respawns != 0 {
			t.Errorf("opened %d times, state %s, respawns %d; want 2, active and none", opens.Load(), s.State, s.Respawns)
		}
	})
}

type leaky struct {
	*hsmtest.Faulty
	memory atomic.Int64
}

func (l *leaky) Memory() (int64, error) { return l.memory.Load(), nil }

func TestTwoDrainsAtOnceLeaveOneMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: time.Second}) // so that the drains have something to wait for
		doing(b, hsmtest.Fault{Delay: time.Second})
		for range 8 {
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
		}
		synctest.Wait()
		errs := make(chan error, 2)
		for _, n := range []string{"a", "b"} {
			go func() { errs <- p.Drain(t.Context(), n, false) }()
		}
		first, second := <-errs, <-errs
		if (first == nil) == (second == nil) || !errors.Is(errors.Join(first, second), ErrLastMember) {
			t.Errorf("%v and %v, want one to be refused", first, second)
		}
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Error(err)
		}
	})
}

func TestALongDrainHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{OpTimeout: time.Hour}, a, newFaulty("b"))
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		for before := a.Count(hsmtest.OnDo); a.Count(hsmtest.OnDo) < before+2; { // the first is a canary's, perhaps
			go func() { _, _ = p.Do(t.Context(), nil, random16) }()
			time.Sleep(time.Millisecond)
		}
		drained := make(chan error, 1)
		go func() { drained <- p.Drain(context.Background(), "a", false) }()
		time.Sleep(time.Second)
		begun := time.Now()
		if err := p.Add(MemberConfig{Name: "c", Sessions: 2, Open: opened(newFaulty("c"))}); err != nil || time.Since(begun) != 0 {
			t.Errorf("adding a member while another drains: %v after %s", err, time.Since(begun))
		}
		if s := p.Stat().Members[0]; s.State != Draining || s.Busy == 0 {
			t.Errorf("%s with %d under way, want draining and its work", s.State, s.Busy)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := <-drained; !errors.Is(err, ErrClosed) {
			t.Errorf("the drain ended with %v", err)
		}
	})
}

func TestAMemberThatCannotUseAKeyRaisesAnAlarmAndAnotherServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		log := &strings.Builder{}
		p := newPool(t, Config{Log: slog.New(slog.NewTextHandler(log, nil))}, a, b)
		k := &Key{ID: [16]byte{9}, Spec: hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign, Token: true, Extractable: true}}
		sharedKey(t, k, a, b)
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, In: make([]byte, 32)}
		a.Inject(hsmtest.OnSign, hsmtest.Fault{Err: &hsm.Error{Code: hsm.MechanismInvalid, Function: hsm.FnSign}})
		for range 1000 {
			if _, err := p.Do(t.Context(), k, op); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		s := p.Stat().Members[0]
		_ = p.Close() // nobody writes to the log any more
		if s.Unusable == 0 || s.Breaker != "closed" {
			t.Errorf("%d unusable, breaker %s", s.Unusable, s.Breaker)
		}
		if n := strings.Count(log.String(), "cannot be used on this member"); n != 1 {
			t.Errorf("%d alarms within ten seconds, want one:\n%s", n, log)
		}
	})
}
