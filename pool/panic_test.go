package pool

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
)

// panicking is a token whose code panics in one kind of call while the pool asks for it.
type panicking struct {
	hsm.Token
	in *atomic.Value // the call's name, "" for none
}

type panickingSession struct {
	hsm.Keeper
	in *atomic.Value
}

func (p panicking) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := p.Token.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return panickingSession{s.(hsm.Keeper), p.in}, nil
}

func (s panickingSession) call(name string) {
	if s.in.Load() == name {
		panic("injected")
	}
}

func (s panickingSession) Do(op *hsm.Op) error {
	s.call("do")
	return s.Keeper.Do(op)
}

func (s panickingSession) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	s.call("find")
	return s.Keeper.Find(c, id)
}

func (s panickingSession) Generate(spec hsm.Spec) (hsm.Handle, error) {
	s.call("generate")
	return s.Keeper.Generate(spec)
}

// A panic in a token's code is that member's failure: the process goes on, others serve, nobody waits for ever, and the member
// serves again when its code works.
func TestAPanicInATokenIsItsMembersFailure(t *testing.T) {
	key := &Key{ID: [16]byte{7}, Spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign}}
	for _, call := range []string{"do", "find", "generate"} {
		synctest.Test(t, func(t *testing.T) {
			var in atomic.Value
			in.Store("")
			b := newFaulty("b")
			p, err := New(Config{Name: "test"})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			open := func(context.Context) (hsm.Token, error) { return panicking{soft.New("a"), &in}, nil }
			if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: open}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			in.Store(call)
			ask := func() error {
				switch ctx, cancel := context.WithTimeout(t.Context(), time.Minute); call {
				case "do":
					defer cancel()
					_, err := p.Do(ctx, nil, random16)
					return err
				case "find":
					defer cancel()
					_, err := p.Do(ctx, key, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: []byte("message")})
					return err
				default:
					defer cancel()
					return p.With(ctx, func(k hsm.Keeper) error {
						_, err := k.Generate(key.Spec)
						return err
					})
				}
			}
			for range 4 {
				if err := ask(); err == nil || errors.Is(err, context.DeadlineExceeded) || hsm.FaultOf(err) == hsm.Caller {
					t.Errorf("%s panics: %v", call, err)
				}
			}
			if call == "do" {
				if err := p.Add(MemberConfig{Name: "b", Sessions: 2, Open: opened(b)}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				for range 100 {
					if err := ask(); err != nil {
						t.Fatal(err)
					}
				}
			}
			in.Store("")
			time.Sleep(time.Minute)
			if s := p.Stat().Members[0]; s.State != Active || s.Busy != 0 || s.Failures == 0 {
				t.Errorf("after panics in %s: %s, %d busy, %d failures", call, s.State, s.Busy, s.Failures)
			}
		})
	}
}

// A panic while a token is opened is told as the reason, and tried again with back-off.
func TestAPanicWhileJoiningIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in atomic.Value
		in.Store("generate") // the canary's key
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		open := func(context.Context) (hsm.Token, error) { return panicking{soft.New("a"), &in}, nil }
		if err := p.Add(MemberConfig{Name: "a", Sessions: 2, Open: open}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := p.Stat().Members[0]; s.State != Joining || s.Reason == "" {
			t.Errorf("%s, %q", s.State, s.Reason)
		}
		in.Store("")
		time.Sleep(2 * time.Second)
		if s := p.Stat().Members[0]; s.State != Active {
			t.Errorf("%s, %q", s.State, s.Reason)
		}
	})
}
