package hsmtest_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/hsm/soft"
)

// With no fault injected a Faulty is as good a token as the one within.
func TestFaultyConforms(t *testing.T) {
	dir, pin := t.TempDir(), hsm.NewPIN([]byte("1234"))
	if err := soft.Init(dir, "token", pin); err != nil {
		t.Fatal(err)
	}
	hsmtest.TestToken(t, func(t testing.TB) hsm.Token {
		tok, err := soft.Open(dir, "token", pin)
		if err != nil {
			t.Fatal(err)
		}
		return hsmtest.NewFaulty(tok)
	})
}

func faulty(t *testing.T) (*hsmtest.Faulty, hsm.Keeper) {
	t.Helper()
	f := hsmtest.NewFaulty(soft.New("within"))
	s, err := f.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f, s.(hsm.Keeper)
}

func random(s hsm.Session) (lost, err error) {
	op := hsm.Op{Kind: hsm.OpRandom, Len: 16, Out: make([]byte, 3, 100)}
	lost = s.Do(&op)
	if (op.Err == nil) != (len(op.Out) == 16) {
		return lost, errors.Join(op.Err, errors.New("the result does not go with the error"))
	}
	return lost, op.Err
}

// Each call meets the fault that was injected for it, and no other call does.
func TestEachCallMeetsItsFault(t *testing.T) {
	broken := &hsm.Error{Code: hsm.DeviceError, Function: hsm.FnOther}
	do := func(k hsm.OpKind) func(*hsmtest.Faulty, hsm.Keeper) error {
		return func(_ *hsmtest.Faulty, s hsm.Keeper) error {
			op := hsm.Op{Kind: k, Len: 1}
			if err := s.Do(&op); err != nil {
				return errors.Join(err, errors.New("the session is lost"))
			}
			return op.Err
		}
	}
	calls := map[hsmtest.Calls]func(*hsmtest.Faulty, hsm.Keeper) error{
		hsmtest.OnOpen: func(f *hsmtest.Faulty, _ hsm.Keeper) error { _, err := f.OpenSession(t.Context()); return err },
		hsmtest.OnSign: do(hsm.OpSign), hsmtest.OnEncrypt: do(hsm.OpEncrypt), hsmtest.OnDecrypt: do(hsm.OpDecrypt), hsmtest.OnWrap: do(hsm.OpWrap),
		hsmtest.OnUnwrap: do(hsm.OpUnwrap), hsmtest.OnRandom: do(hsm.OpRandom),
		hsmtest.OnFind:     func(_ *hsmtest.Faulty, s hsm.Keeper) error { _, err := s.Find(hsm.ClassSecret, []byte{1}); return err },
		hsmtest.OnGenerate: func(_ *hsmtest.Faulty, s hsm.Keeper) error { _, err := s.Generate(hsm.Spec{}); return err },
		hsmtest.OnPublic:   func(_ *hsmtest.Faulty, s hsm.Keeper) error { _, err := s.Public(1); return err },
		hsmtest.OnImport:   func(_ *hsmtest.Faulty, s hsm.Keeper) error { _, err := s.Import(hsm.Spec{}, nil); return err },
		hsmtest.OnWrapKey:  func(_ *hsmtest.Faulty, s hsm.Keeper) error { _, err := s.WrapKey(1, hsm.Mechanism{}, 2); return err },
		hsmtest.OnUnwrapKey: func(_ *hsmtest.Faulty, s hsm.Keeper) error {
			_, err := s.UnwrapKey(1, hsm.Mechanism{}, nil, hsm.Spec{})
			return err
		},
		hsmtest.OnDestroy: func(_ *hsmtest.Faulty, s hsm.Keeper) error { return s.Destroy(1) },
	}
	all := hsmtest.Calls(0)
	for c, run := range calls {
		all |= c
		f, s := faulty(t)
		f.Inject(c, hsmtest.Fault{Err: broken})
		for other, run := range calls {
			if err := run(f, s); errors.Is(err, broken) != (other == c) {
				t.Errorf("with a fault for %#x, %#x answers %v", c, other, err)
			}
		}
		f.Heal(hsmtest.OnAny)
		if err := run(f, s); errors.Is(err, broken) {
			t.Errorf("%#x after Heal: %v", c, err)
		}
		if n := f.Count(c); n != 2 && !(c == hsmtest.OnOpen && n == 3) {
			t.Errorf("%#x was called %d times", c, n)
		}
		f.Inject(c, hsmtest.Fault{Kill: true})
		if err := run(f, s); !errors.Is(err, hsm.ErrLinkLost) {
			t.Errorf("%#x, which ends the token: %v", c, err)
		}
		<-f.Done()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if all != hsmtest.OnAny {
		t.Errorf("%#x are tested of %#x", all, hsmtest.OnAny)
	}
}

func TestFaultsEndAfterTheirTimes(t *testing.T) {
	f, s := faulty(t)
	busy := &hsm.Error{Code: hsm.SessionCount, Function: hsm.FnOther}
	f.Inject(hsmtest.OnDo, hsmtest.Fault{Err: busy, Times: 2})
	for i := range 4 {
		if lost, err := random(s); lost != nil || errors.Is(err, busy) != (i < 2) {
			t.Errorf("call %d: %v, %v", i, lost, err)
		}
	}
}

func TestALostSessionIsLostWithItsObjects(t *testing.T) {
	f, s := faulty(t)
	other, err := f.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 128, ID: []byte("key")}); err != nil {
		t.Fatal(err)
	}
	gone := &hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnRandom}
	f.Inject(hsmtest.OnRandom, hsmtest.Fault{Err: gone, Lose: true, Times: 1})
	if lost, err := random(s); lost != error(gone) || err != lost {
		t.Errorf("Do = %v, op.Err = %v", lost, err)
	}
	if lost, err := random(s); lost != hsm.ErrClosed || err != lost {
		t.Errorf("Do on a lost session = %v, op.Err = %v", lost, err)
	}
	if lost, err := random(other); lost != nil || err != nil {
		t.Errorf("another session: %v, %v", lost, err)
	}
	if _, err := other.Find(hsm.ClassSecret, []byte("key")); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("an object of the lost session: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestDelayAndHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := faulty(t)
		f.Inject(hsmtest.OnRandom, hsmtest.Fault{Delay: time.Second})
		begun := time.Now()
		if lost, err := random(s); lost != nil || err != nil || time.Since(begun) != time.Second {
			t.Errorf("after %s: %v, %v", time.Since(begun), lost, err)
		}
		release := make(chan struct{})
		f.Inject(hsmtest.OnRandom, hsmtest.Fault{Until: release})
		begun = time.Now()
		time.AfterFunc(time.Hour, func() { close(release) })
		if lost, err := random(s); lost != nil || err != nil || time.Since(begun) != time.Hour {
			t.Errorf("after %s: %v, %v", time.Since(begun), lost, err)
		}
	})
	for want, end := range map[error]func(*hsmtest.Faulty){
		hsm.ErrLinkLost: (*hsmtest.Faulty).Kill,
		hsm.ErrClosed:   func(f *hsmtest.Faulty) { _ = f.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			f, s := faulty(t)
			f.Inject(hsmtest.OnRandom, hsmtest.Fault{Until: make(chan struct{})})
			var wg sync.WaitGroup
			wg.Go(func() {
				if lost, err := random(s); lost != want || err != want {
					t.Errorf("a call that hung: %v, %v, want %v", lost, err, want)
				}
			})
			synctest.Wait()
			end(f)
			wg.Wait()
			<-f.Done()
		})
	}
}
