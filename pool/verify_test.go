package pool

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/hsm/soft"
)

// flipping is a token that computes every signature wrongly while wrong is set.
type flipping struct {
	hsm.Token
	wrong *atomic.Bool
}

func (f flipping) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := f.Token.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return flippingSession{s.(hsm.Keeper), f.wrong}, nil
}

type flippingSession struct {
	hsm.Keeper
	wrong *atomic.Bool
}

func (f flippingSession) Do(op *hsm.Op) error {
	err := f.Keeper.Do(op)
	if op.Kind == hsm.OpSign && f.wrong.Load() && len(op.Out) > 0 {
		op.Out[3] ^= 4
	}
	return err
}

// A device that begins to compute wrongly, after signatures that were right, is found out before anybody sees what it signed.
func TestWithVerifyAllNoWrongSignatureLeaves(t *testing.T) {
	for _, all := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var wrong atomic.Bool
			a := hsmtest.NewFaulty(flipping{soft.New("a"), &wrong})
			b := newFaulty("b")
			k := &Key{ID: [16]byte{9}, Spec: hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign, Token: true, Extractable: true}}
			sharedKey(t, k, a, b)
			p := newPool(t, Config{VerifyAll: all}, a, b)
			defer p.Close()
			digest := sha256.Sum256([]byte("message"))
			op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, In: digest[:]}
			left := 0
			for i := range 400 {
				wrong.Store(i >= 100) // after the first signatures, which are verified in any case
				out, err := p.Do(t.Context(), k, op)
				if err != nil {
					t.Fatalf("operation %d: %v", i, err)
				}
				if hsm.Verify(k.Public, op.Mech, op.In, out) != nil {
					left++
				}
				time.Sleep(10 * time.Millisecond)
			}
			switch {
			case all && left > 0:
				t.Errorf("%d wrong signatures left the pool", left)
			case all && p.Stat().Members[0].Failures == 0:
				t.Error("nobody counted what a computed wrongly")
			case !all && left == 0:
				t.Error("no wrong signature left the pool though only the first of a handle is verified: this test shows nothing")
			}
		})
	}
}

// A handle that names something else from the start is found out by its first signature.
func TestTheFirstSignatureOfAHandleIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wrong atomic.Bool
		a := hsmtest.NewFaulty(flipping{soft.New("a"), &wrong})
		b := newFaulty("b")
		k := &Key{ID: [16]byte{9}, Spec: hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign, Token: true, Extractable: true}}
		sharedKey(t, k, a, b)
		wrong.Store(true)
		p := newPool(t, Config{}, a, b)
		defer p.Close()
		digest := sha256.Sum256([]byte("message"))
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, In: digest[:]}
		for i := range 200 {
			out, err := p.Do(t.Context(), k, op)
			if err != nil || hsm.Verify(k.Public, op.Mech, op.In, out) != nil {
				t.Fatalf("operation %d: %v, or a wrong signature", i, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if a.Count(hsmtest.OnSign) == 0 || p.Stat().Members[0].Unusable == 0 {
			t.Errorf("a was asked %d times, and %d wrong signatures were counted", a.Count(hsmtest.OnSign), p.Stat().Members[0].Unusable)
		}
	})
}

// sharedKey makes k on the first token and puts a copy on the other, so that both have the same.
func sharedKey(t *testing.T, k *Key, a, b *hsmtest.Faulty) {
	t.Helper()
	open := func(f *hsmtest.Faulty) hsm.Keeper {
		s, err := f.OpenSession(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.(hsm.Keeper)
	}
	from, to := open(a), open(b)
	defer from.Close()
	defer to.Close()
	spec := k.Spec
	spec.ID = k.ID[:]
	h, err := from.Generate(spec)
	if err != nil {
		t.Fatal(err)
	}
	der, err := from.(interface {
		Public(hsm.Handle) ([]byte, error)
	}).Public(h)
	if err != nil {
		t.Fatal(err)
	}
	if k.Public, err = x509.ParsePKIXPublicKey(der); err != nil {
		t.Fatal(err)
	}
	var secret [32]byte
	secret[0] = 1
	kek := hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap}
	ka, err := from.Import(kek, secret[:])
	if err != nil {
		t.Fatal(err)
	}
	kb, err := to.Import(kek, secret[:])
	if err != nil {
		t.Fatal(err)
	}
	m := hsm.Mechanism{Type: hsm.AESKeyWrapKWP}
	blob, err := from.WrapKey(ka, m, h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.UnwrapKey(kb, m, blob, spec); err != nil {
		t.Fatal(err)
	}
}
