package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

// stepwise is a token that notes the steps of its joining, with the times they came at, and says how fast sessions may be opened.
type stepwise struct {
	*hsmtest.Faulty
	info  hsm.Info
	mu    sync.Mutex
	steps []string
	times []time.Time
}

func (s *stepwise) note(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps, s.times = append(s.steps, step), append(s.times, time.Now())
}

func (s *stepwise) Info() hsm.Info {
	i := s.Faulty.Info()
	i.OpenPerSecond, i.MaxSessions, i.MaxObjects = s.info.OpenPerSecond, s.info.MaxSessions, s.info.MaxObjects
	return i
}

func (s *stepwise) OpenSession(ctx context.Context) (hsm.Session, error) {
	s.note("session")
	x, err := s.Faulty.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return &stepwiseSession{x.(hsm.Keeper), s}, nil
}

type stepwiseSession struct {
	hsm.Keeper
	s *stepwise
}

func (s *stepwiseSession) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	s.s.note("find")
	return s.Keeper.Find(c, id)
}

func (s *stepwiseSession) Generate(spec hsm.Spec) (hsm.Handle, error) {
	s.s.note("generate " + spec.Label)
	return s.Keeper.Generate(spec)
}

func (s *stepwiseSession) Do(op *hsm.Op) error {
	s.s.note(op.Kind.String())
	return s.Keeper.Do(op)
}

// Joining goes step by step: one session, the KEK, the canary, then the other sessions at the profile's pace; then it serves.
func TestJoiningGoesStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &stepwise{Faulty: newFaulty("a"), info: hsm.Info{OpenPerSecond: 2, MaxSessions: 5}}
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		kek := []byte("kek-of-the-pool!")
		provide := func(_ context.Context, k hsm.Keeper) error {
			a.note("provision")
			_, err := k.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kek, May: hsm.MayUnwrap, Token: true}, make([]byte, 32))
			return err
		}
		if err := p.Add(MemberConfig{Name: "a", KEK: kek, Provision: provide, Open: func(context.Context) (hsm.Token, error) { a.note("open"); return a, nil }}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1999 * time.Millisecond)
		if _, err := p.Do(t.Context(), nil, random16); !errors.Is(err, ErrUnavailable) {
			t.Errorf("before its sessions are open: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
		if s := p.Stat(); s.Members[0].State != Active || s.Members[0].Sessions != 5 || !s.Ready {
			t.Fatalf("%+v", s)
		}
		want := []string{"open", "session", "find", "provision", "find", "generate keyway-canary", "random", "encrypt", "session", "session", "session", "session"}
		a.mu.Lock()
		defer a.mu.Unlock()
		if !slices.Equal(a.steps, want) {
			t.Errorf("steps %q\nwant  %q", a.steps, want)
		}
		for i := len(a.steps) - 4; i < len(a.steps); i++ {
			if gap := a.times[i].Sub(a.times[i-1]); gap != 500*time.Millisecond {
				t.Errorf("session %d came %s after what was before it", i, gap)
			}
		}
	})
}

// A member whose canary fails does not get as far as to serve.
func TestAMemberWhoseCanaryFailsDoesNotJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		a.Inject(hsmtest.OnEncrypt, hsmtest.Fault{Err: &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnEncrypt}})
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var opens atomic.Int64
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: reopening(&opens, a, newFaulty("a"))}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := p.Do(t.Context(), nil, random16); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v, want ErrUnavailable", err)
		}
		time.Sleep(2 * time.Second)
		if _, err := p.Do(t.Context(), nil, random16); err != nil || opens.Load() != 2 {
			t.Errorf("%v, opened %d times", err, opens.Load())
		}
	})
}

// A worker that has reached its limit as soon as it is started is not started again and again without a pause.
func TestAWorkerAboveItsMemoryFromTheStartIsReplacedWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, Config{}, newFaulty("a"))
		defer p.Close()
		var opens atomic.Int64
		open := func(context.Context) (hsm.Token, error) {
			opens.Add(1)
			l := &leaky{Faulty: newFaulty("b")}
			l.memory.Store(2)
			return l, nil
		}
		if err := p.Add(MemberConfig{Name: "b", Sessions: 2, MaxMemory: 1, Open: open}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := opens.Load(); n > 8 || n < 3 {
			t.Errorf("started %d times within a minute", n)
		}
	})
}
