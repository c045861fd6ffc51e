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
	"keyway/hsm/soft"
)

// newFaulty returns a real embedded token whose calls can be made to fail, to be slow and to hang.
func newFaulty(name string) *hsmtest.Faulty { return hsmtest.NewFaulty(soft.New(name)) }

// doing is what the token's operations, apart from keys' comings and goings, meet from now on.
func doing(f *hsmtest.Faulty, x hsmtest.Fault) { f.Inject(hsmtest.OnDo, x) }

// errLogin is what a token answers that has lost its login.
var errLogin = &hsm.Error{Code: hsm.UserNotLoggedIn, Function: hsm.FnSign}

// opened is a member's Open that hands out the same token.
func opened(f *hsmtest.Faulty) func(context.Context) (hsm.Token, error) {
	return func(context.Context) (hsm.Token, error) { return f, nil }
}

func newPool(t *testing.T, cfg Config, tokens ...*hsmtest.Faulty) *Pool {
	t.Helper()
	cfg.Name = "test"
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range tokens {
		if err := p.Add(MemberConfig{Name: string(rune('a' + i)), Open: opened(f), Sessions: 2, Queue: 4}); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
	return p
}

var random16 = hsm.Op{Kind: hsm.OpRandom, Len: 16}

func TestAFailingMemberIsNoticedByNobodyWhileAnotherServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnRandom}})
		for i := range 8000 {
			if out, err := p.Do(t.Context(), nil, random16); err != nil || len(out) != 16 {
				t.Fatalf("operation %d: %v", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		if s := p.Stat(); s.Members[0].State != Ejected || s.Members[1].State != Active {
			t.Errorf("states %s and %s, want ejected and active", s.Members[0].State, s.Members[1].State)
		}
		a.Heal(hsmtest.OnDo)
		time.Sleep(10 * time.Second)
		if s := p.Stat(); s.Members[0].State != Active {
			t.Errorf("the member that works again is %s", s.Members[0].State)
		}
	})
}

func TestCallersCannotTripABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		for _, code := range []hsm.Code{hsm.EncryptedDataInvalid, hsm.DataLenRange} {
			doing(a, hsmtest.Fault{Err: &hsm.Error{Code: code, Function: hsm.FnDecrypt}})
			for range 500 {
				if _, err := p.Do(t.Context(), nil, random16); hsm.FaultOf(err) != hsm.Caller {
					t.Fatalf("%s: %v, want the caller's fault", code, err)
				}
			}
		}
		if s := p.Stat().Members[0]; s.State != Active || s.Breaker != "closed" {
			t.Errorf("after 1,000 bad requests: %s, breaker %s", s.State, s.Breaker)
		}
	})
}

func TestAnAmbiguousCodeIsTheCallersWhenTheCanaryPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt}})
		_, err := p.Do(t.Context(), nil, random16)
		// The canary went through the same failing token, so the device is to blame …
		if hsm.FaultOf(err) != hsm.Device && !errors.Is(err, ErrDevice) {
			t.Errorf("with a failing canary: %v, want the device's fault", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		// As SoftHSM does for a changed ciphertext.
		a.Inject(hsmtest.OnDecrypt, hsmtest.Fault{Err: &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt}})
		for range 50 {
			_, err := p.Do(t.Context(), nil, hsm.Op{Kind: hsm.OpDecrypt})
			// … and here it passes.
			if hsm.FaultOf(err) != hsm.Caller {
				t.Fatalf("with a passing canary: %v, want the caller's fault", err)
			}
		}
		if s := p.Stat().Members[0]; s.Breaker != "closed" {
			t.Errorf("breaker %s", s.Breaker)
		}
	})
}

func TestAFullQueueIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: time.Second})
		var wg sync.WaitGroup
		var full atomic.Int64
		for range 20 { // 2 run, 4 wait, 14 are refused
			wg.Go(func() {
				begun := time.Now()
				_, err := p.Do(t.Context(), nil, random16)
				if errors.Is(err, ErrOverloaded) {
					full.Add(1)
					var r *Refusal
					if time.Since(begun) != 0 || !errors.As(err, &r) || r.RetryAfter <= 0 {
						t.Errorf("refused after %s with %v", time.Since(begun), err)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if full.Load() < 12 {
			t.Errorf("%d of 20 were refused", full.Load())
		}
	})
}

func TestACallerLeavesAtItsDeadlineAndItsJobIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: time.Second})
		before := a.Count(hsmtest.OnDo)
		var wg sync.WaitGroup
		for range 6 {
			synctest.Wait() // until the sessions have taken what they can, so that the others find room in the queue
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				begun := time.Now()
				if _, err := p.Do(ctx, nil, random16); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != 100*time.Millisecond {
					t.Errorf("after %s: %v", time.Since(begun), err)
				}
			})
		}
		wg.Wait()
		time.Sleep(1500 * time.Millisecond)
		if n := a.Count(hsmtest.OnDo) - before; n > 3 { // two that ran, and perhaps a canary
			t.Errorf("the token did %d operations; those whose callers had left should have been dropped", n)
		}
	})
}

func TestAHungMemberIsKilledAndOthersTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{OpTimeout: time.Second}, a)
		defer p.Close()
		doing(a, hsmtest.Fault{Until: make(chan struct{})})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := p.Do(ctx, nil, random16); err != nil {
					t.Errorf("while another member serves: %v", err)
				}
			})
		}
		synctest.Wait()
		if err := p.Add(MemberConfig{Name: "b", Open: opened(b), Sessions: 2, Queue: 4}); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		select {
		case <-a.Done():
		default:
			t.Error("the hung worker was not killed")
		}
		if s := p.Stat().Members[0]; s.Hung < 2 {
			t.Errorf("%d operations reported hung, want 2", s.Hung)
		}
	})
}

func TestAWrongPINIsTriedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens, latched atomic.Int64
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		open := func(context.Context) (hsm.Token, error) {
			opens.Add(1)
			return nil, &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
		}
		err = p.Add(MemberConfig{Name: "a", Open: open, OnLatch: func(string, string) { latched.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if opens.Load() != 1 || latched.Load() != 1 {
			t.Errorf("logged in %d times, told %d times; want once each", opens.Load(), latched.Load())
		}
		if s := p.Stat().Members[0]; s.State != Latched || s.Reason == "" {
			t.Errorf("%+v", s)
		}
		if err := p.ClearLatch("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if opens.Load() != 2 {
			t.Errorf("after clearing the latch: %d logins, want 2", opens.Load())
		}
	})
}

func TestADrainedMemberFinishesWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFaulty("a"), newFaulty("b")
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		doing(a, hsmtest.Fault{Delay: 100 * time.Millisecond})
		doing(b, hsmtest.Fault{Delay: 100 * time.Millisecond})
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := p.Do(t.Context(), nil, random16); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		if err := p.Drain(t.Context(), "a", false); err != nil {
			t.Fatal(err)
		}
		if err := p.Drain(t.Context(), "b", false); !errors.Is(err, ErrLastMember) {
			t.Errorf("the last member: %v", err)
		}
		wg.Wait()
		if s := p.Stat().Members[0]; s.State != Drained {
			t.Errorf("state %s", s.State)
		}
	})
}

func TestALostWorkerComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int64
		tokens := []*hsmtest.Faulty{newFaulty("a"), newFaulty("a")}
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		err = p.Add(MemberConfig{Name: "a", Sessions: 2, Open: func(context.Context) (hsm.Token, error) { return tokens[min(1, opens.Add(1)-1)], nil }})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		tokens[0].Kill()
		synctest.Wait()
		if _, err := p.Do(t.Context(), nil, random16); !errors.Is(err, ErrUnavailable) {
			t.Errorf("with its only member gone: %v, want ErrUnavailable", err)
		}
		time.Sleep(3 * time.Second)
		if _, err := p.Do(t.Context(), nil, random16); err != nil {
			t.Errorf("3 s after the worker was lost: %v", err)
		}
		if s := p.Stat().Members[0]; s.Epoch != 1 || s.Respawns != 1 {
			t.Errorf("epoch %d, respawns %d, want 1 and 1", s.Epoch, s.Respawns)
		}
	})
}
