package lifecycle_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
)

// rivals are two gateways on one store, each with the custody token and a member's token open.
type rivals struct {
	store           lifecycle.Store
	custody, member hsm.Token
	pair            []byte
}

// everything is what a gateway does until the member can serve.
func (r *rivals) everything(t *testing.T, f *faults) error {
	w := newWorks(t, r.store, r.custody, f)
	m := newBench(r.member, f)
	m.pair = r.pair
	if err := w.custody.Init(t.Context()); err != nil {
		return err
	}
	kek, err := w.custody.EnsurePool(t.Context(), "default")
	if err != nil {
		return err
	}
	return provision(t.Context(), w, "m1", m, kek)
}

// once checks that each KEK is on each token once, and the same on both.
func (r *rivals) once(t *testing.T, what string) {
	t.Helper()
	for _, c := range []struct {
		kind  lifecycle.KEKKind
		name  string
		where map[string]hsm.Token
	}{
		{lifecycle.KEKCustody, "custody", map[string]hsm.Token{"custody": r.custody}},
		{lifecycle.KEKPool, "default", map[string]hsm.Token{"custody": r.custody, "the member": r.member}},
		{lifecycle.KEKRoot, "default/m1", map[string]hsm.Token{"custody": r.custody, "the member": r.member}},
	} {
		k := storedKEK(t, r.store, c.kind, c.name)
		for name, tok := range c.where {
			s, err := tok.OpenSession(context.Background())
			must(t, err)
			h, err := s.Find(hsm.ClassSecret, k.ID[:])
			if err != nil {
				t.Errorf("%s: the %s KEK on %s: %v", what, c.kind, name, err)
			} else {
				op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: h, In: make([]byte, 16)}
				must(t, s.Do(&op))
				if op.Err != nil || string(op.Out[:3]) != string(k.KCV) {
					t.Errorf("%s: the %s KEK on %s is not the recorded one: %v", what, c.kind, name, op.Err)
				}
			}
			must(t, s.Close())
		}
	}
}

func newRivals(t *testing.T, pair []byte) *rivals {
	return &rivals{store: openStore(t), custody: soft.New("custody"), member: soft.New("m1"), pair: pair}
}

// Whenever another gateway that shares the store does the same work, no KEK is made twice: whoever saw two tries again.
func TestTwoGatewaysMakeEachKEKOnce(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	pair, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	must(t, err)
	t.Run("one amid the other", func(t *testing.T) {
		alone := &faults{}
		must(t, newRivals(t, pair).everything(t, alone))
		refused := 0
		for at := 1; at <= alone.step; at++ {
			r := newRivals(t, pair)
			f := &faults{at: at}
			f.instead = func() {
				if r.everything(t, &faults{}) != nil {
					refused++
				}
			}
			if err := r.everything(t, f); err != nil {
				refused++
				if err := r.everything(t, &faults{}); err != nil {
					t.Fatalf("step %d, tried again: %v", at, err)
				}
			}
			r.once(t, fmt.Sprintf("step %d", at))
		}
		if refused < 5 {
			t.Errorf("%d times they made the same KEK, want each of the five that are made at least", refused)
		}
	})
	t.Run("both at once", func(t *testing.T) {
		for range 20 {
			r := newRivals(t, pair)
			var both sync.WaitGroup
			for range 2 {
				both.Go(func() {
					var err error
					for range 1000 {
						if err = r.everything(t, &faults{}); err == nil {
							return
						}
					}
					t.Errorf("never done: %v", err)
				})
			}
			both.Wait()
			r.once(t, "at once")
		}
	})
}

// stale sees nothing that was made after it was opened, as SoftHSM may after two processes have written at once.
type stale struct{ hsm.Keeper }

func (stale) Find(hsm.Class, []byte) (hsm.Handle, error) { return 0, hsm.ErrNotFound }

func TestWhatAnotherGatewayHasJustMadeIsNotMadeAgainUnseen(t *testing.T) {
	r := newRivals(t, nil)
	must(t, r.everything(t, &faults{}))
	w := newWorks(t, r.store, r.custody, &faults{})
	s, err := r.member.OpenSession(t.Context())
	must(t, err)
	defer s.Close()
	if err := w.custody.Provision("default", "m1")(t.Context(), stale{s.(hsm.Keeper)}); err == nil || !strings.Contains(err.Error(), "opened again") {
		t.Errorf("through a token opened before another gateway was done: %v", err)
	}
	r.once(t, "after that")
}
