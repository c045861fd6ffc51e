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
	"keyway/hsm/soft"
)

// flaky is a real embedded token whose calls can be made to fail, to be slow and to hang.
type flaky struct {
	*soft.Token
	fail  atomic.Pointer[hsm.Error] // every Do answers with it
	delay atomic.Int64
	hang  chan struct{} // not nil: every Do waits for it
	ops   atomic.Int64
	done  chan struct{} // closed by Kill
	kill  sync.Once

	stale    atomic.Bool // the login is lost: no key can be used or made
	hangFind atomic.Bool // Find waits as Do does
}

func newFlaky(name string) *flaky { return &flaky{Token: soft.New(name), done: make(chan struct{})} }

func (f *flaky) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := f.Token.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return &flakySession{s.(hsm.Keeper), f}, nil
}

func (f *flaky) PID() int              { return 1 }
func (f *flaky) Kill()                 { f.kill.Do(func() { close(f.done) }) }
func (f *flaky) Done() <-chan struct{} { return f.done }

type flakySession struct {
	hsm.Keeper
	f *flaky
}

var errLogin = &hsm.Error{Code: hsm.UserNotLoggedIn, Function: hsm.FnSign}

func (s *flakySession) Generate(spec hsm.Spec) (hsm.Handle, error) {
	if s.f.stale.Load() {
		return 0, errLogin
	}
	return s.Keeper.Generate(spec)
}

func (s *flakySession) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	if s.f.hangFind.Load() {
		<-s.f.done
		return 0, hsm.ErrLinkLost
	}
	return s.Keeper.Find(c, id)
}

func (s *flakySession) Do(op *hsm.Op) error {
	s.f.ops.Add(1)
	if s.f.stale.Load() && op.Key != 0 {
		op.Err = errLogin
		return nil
	}
	if s.f.hang != nil {
		select {
		case <-s.f.hang:
		case <-s.f.done:
			op.Err = hsm.ErrLinkLost
			return hsm.ErrLinkLost
		}
	}
	select {
	case <-s.f.done:
		op.Err = hsm.ErrLinkLost
		return hsm.ErrLinkLost
	default:
	}
	if d := s.f.delay.Load(); d > 0 {
		time.Sleep(time.Duration(d))
	}
	if e := s.f.fail.Load(); e != nil {
		op.Err = e
		return nil
	}
	return s.Keeper.Do(op)
}

// opened is a member's Open that hands out the same token.
func opened(f *flaky) func(context.Context) (hsm.Token, error) {
	return func(context.Context) (hsm.Token, error) { return f, nil }
}

func newPool(t *testing.T, cfg Config, tokens ...*flaky) *Pool {
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
		a, b := newFlaky("a"), newFlaky("b")
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		a.fail.Store(&hsm.Error{Code: hsm.DeviceError, Function: hsm.FnRandom})
		for i := range 8000 {
			if out, err := p.Do(t.Context(), nil, random16); err != nil || len(out) != 16 {
				t.Fatalf("operation %d: %v", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		if s := p.Stat(); s.Members[0].State != Ejected || s.Members[1].State != Active {
			t.Errorf("states %s and %s, want ejected and active", s.Members[0].State, s.Members[1].State)
		}
		a.fail.Store(nil)
		time.Sleep(10 * time.Second)
		if s := p.Stat(); s.Members[0].State != Active {
			t.Errorf("the member that works again is %s", s.Members[0].State)
		}
	})
}

func TestCallersCannotTripABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFlaky("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		for _, code := range []hsm.Code{hsm.EncryptedDataInvalid, hsm.DataLenRange} {
			a.fail.Store(&hsm.Error{Code: code, Function: hsm.FnDecrypt})
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
		a := newFlaky("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		a.fail.Store(&hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt})
		_, err := p.Do(t.Context(), nil, random16)
		// The canary went through the same failing token, so the device is to blame …
		if hsm.FaultOf(err) != hsm.Device && !errors.Is(err, ErrDevice) {
			t.Errorf("with a failing canary: %v, want the device's fault", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFlaky("a")
		p, _ := New(Config{Name: "test"})
		defer p.Close()
		open := func(context.Context) (hsm.Token, error) { return ambiguous{f}, nil }
		if err := p.Add(MemberConfig{Name: "a", Open: open, Sessions: 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
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

// ambiguous answers every decryption with CKR_GENERAL_ERROR, as SoftHSM does for a changed ciphertext.
type ambiguous struct{ *flaky }

func (a ambiguous) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := a.Token.OpenSession(ctx)
	return ambiguousSession{s.(hsm.Keeper)}, err
}

type ambiguousSession struct{ hsm.Keeper }

func (s ambiguousSession) Do(op *hsm.Op) error {
	if op.Kind == hsm.OpDecrypt {
		op.Err = &hsm.Error{Code: hsm.GeneralError, Function: hsm.FnDecrypt}
		return nil
	}
	return s.Keeper.Do(op)
}

func TestAFullQueueIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFlaky("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		a.delay.Store(int64(time.Second))
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
		a := newFlaky("a")
		p := newPool(t, Config{}, a)
		defer p.Close()
		a.delay.Store(int64(time.Second))
		before := a.ops.Load()
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
		if n := a.ops.Load() - before; n > 3 { // two that ran, and perhaps a canary
			t.Errorf("the token did %d operations; those whose callers had left should have been dropped", n)
		}
	})
}

func TestAHungMemberIsKilledAndOthersTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFlaky("a"), newFlaky("b")
		p := newPool(t, Config{OpTimeout: time.Second}, a)
		defer p.Close()
		a.hang = make(chan struct{})
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
		case <-a.done:
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
		a, b := newFlaky("a"), newFlaky("b")
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		a.delay.Store(int64(100 * time.Millisecond))
		b.delay.Store(int64(100 * time.Millisecond))
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
		tokens := []*flaky{newFlaky("a"), newFlaky("a")}
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
