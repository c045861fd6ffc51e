package pool

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/lifecycle/key"
)

// wrappedKey makes a member's KEK on a token and a key wrapped under it.
func wrappedKey(t *testing.T, f *hsmtest.Faulty, kek []byte) *Key {
	t.Helper()
	s, err := f.OpenSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := s.(hsm.Keeper)
	over, err := k.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kek, May: hsm.MayWrap | hsm.MayUnwrap, Token: true})
	if err != nil {
		t.Fatal(err)
	}
	spec := hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign, Extractable: true}
	h, err := k.Generate(spec)
	if err != nil {
		t.Fatal(err)
	}
	m := hsm.Mechanism{Type: hsm.AESKeyWrapKWP}
	blob, err := k.WrapKey(over, m, h)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{ID: key.NewID(), Spec: spec, Blob: blob, Wrap: m}
}

// Many that want one key wait for one load; when its session is lost under it, that session alone is replaced.
func TestOneLoadServesAllAndCostsOneSessionAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		kek := []byte("kek-of-the-pool!")
		k := wrappedKey(t, a, kek)
		p, err := New(Config{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Add(MemberConfig{Name: "a", Sessions: 8, KEK: kek, Open: opened(a)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		all := func() {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if err := mac(t, p, k); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		a.Inject(hsmtest.OnUnwrapKey, hsmtest.Fault{Delay: time.Second, Err: &hsm.Error{Code: hsm.SessionHandleInvalid, Function: hsm.FnUnwrap}, Lose: true, Times: 1})
		sessions := a.Count(hsmtest.OnOpen)
		all()
		if n := a.Count(hsmtest.OnOpen) - sessions; n != 1 {
			t.Errorf("%d sessions were replaced, and one was lost", n)
		}
		loads := a.Count(hsmtest.OnUnwrapKey)
		all()
		if n := a.Count(hsmtest.OnUnwrapKey) - loads; n != 0 || loads > 2 {
			t.Errorf("%d loads, and %d more", loads, n)
		}
	})
}

// An object that went with the session that made it is not destroyed once more: its number may be another's by then.
func TestAnObjectThatWentWithItsSessionIsNotDestroyedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFaulty("a")
		defer a.Close()
		kek := []byte("kek-of-the-pool!")
		k := wrappedKey(t, a, kek)
		one, _ := a.OpenSession(t.Context())
		two, _ := a.OpenSession(t.Context())
		at, err := two.Find(hsm.ClassSecret, kek)
		if err != nil {
			t.Fatal(err)
		}
		var loads, evictions atomic.Uint64
		h := newHandles(1, kek, at, &loads, &evictions)
		if _, _, err := h.acquire(k, one); err != nil {
			t.Fatal(err)
		}
		e, _, err := h.acquire(k, two)
		if err != nil {
			t.Fatal(err)
		}
		h.release(e, one)
		_ = one.Close()
		h.orphan(one)
		h.release(e, two)
		if n := a.Count(hsmtest.OnDestroy); n != 0 {
			t.Error("the handle of an object that is gone was destroyed")
		}
		other := *k
		other.ID = key.NewID()
		if _, _, err := h.acquire(&other, two); err != nil || h.len() != 1 {
			t.Errorf("%v, %d kept: the place was not given back", err, h.len())
		}
	})
}
