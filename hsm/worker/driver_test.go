//go:build linux

package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"sync"
	"testing"

	"keyway/hsm"
	"keyway/hsm/soft"
)

func init() { // the table of roles, completed
	roles["soft"] = func(context.Context, json.RawMessage, hsm.PIN) (hsm.Token, error) {
		return soft.New("behind the border"), nil
	}
}

func TestSoft(t *testing.T) { testDriver(t, spawn(t, config(t, "soft", nil))) }

// run runs an operation that must succeed.
func run(t *testing.T, s hsm.Session, op hsm.Op) []byte {
	t.Helper()
	if err := s.Do(&op); err != nil || op.Err != nil {
		t.Fatalf("%s with %s: %v, %v", op.Kind, op.Mech.Type, err, op.Err)
	}
	return op.Out
}

// testDriver uses a real driver through the border, by every call of the contract, and judges the results without it.
func testDriver(t *testing.T, w *Token) {
	t.Helper()
	s := openSession(t, w).(hsm.Keeper)
	id := func(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }
	digest := sha256.Sum256([]byte("message"))
	var signers []func(hsm.Session) error

	for _, c := range []struct {
		name string
		spec hsm.Spec
		mech hsm.Mechanism
	}{
		{"P-256", hsm.Spec{Type: hsm.KeyEC, Bits: 256, ID: id(1), May: hsm.MaySign}, hsm.Mechanism{Type: hsm.ECDSA, Hash: hsm.SHA256}},
		{"RSA-2048", hsm.Spec{Type: hsm.KeyRSA, Bits: 2048, ID: id(2), May: hsm.MaySign}, hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256}},
	} {
		c.spec.Token = true
		h, err := s.Generate(c.spec)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		der, err := s.Public(h)
		if err != nil {
			t.Fatalf("%s: public key: %v", c.name, err)
		}
		pub, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			t.Fatalf("%s: public key: %v", c.name, err)
		}
		sign := func(s hsm.Session) error {
			h, err := s.Find(hsm.ClassPrivate, c.spec.ID)
			if err != nil {
				return err
			}
			op := hsm.Op{Kind: hsm.OpSign, Mech: c.mech, Key: h, In: digest[:]}
			if err := s.Do(&op); err != nil || op.Err != nil {
				return fmt.Errorf("%v, %w", err, op.Err)
			}
			return hsm.Verify(pub, c.mech, digest[:], op.Out)
		}
		if err := sign(s); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		signers = append(signers, sign)
		t.Cleanup(func() {
			_ = s.Destroy(h) // the worker ends before or after; its token goes with the test
		})
	}

	// Several sessions at once, each answered with its own.
	var wg sync.WaitGroup
	for range 8 {
		s := openSession(t, w)
		wg.Go(func() {
			for range 20 {
				for _, sign := range signers {
					if err := sign(s); err != nil {
						t.Error(err)
						return
					}
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	gcm := hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte("bound to it")}
	material := id(7)
	aes, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 128, ID: id(3), May: hsm.MayEncrypt | hsm.MayDecrypt}, material)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1000, 40_000} {
		clear := bytes.Repeat([]byte{byte(n)}, n)
		sealed := run(t, s, hsm.Op{Kind: hsm.OpEncrypt, Mech: gcm, Key: aes, In: clear})
		if len(sealed) != n+hsm.GCMIVSize+hsm.GCMTagSize {
			t.Errorf("%d bytes sealed to %d", n, len(sealed))
		}
		if got := run(t, s, hsm.Op{Kind: hsm.OpDecrypt, Mech: gcm, Key: aes, In: sealed}); !bytes.Equal(got, clear) {
			t.Errorf("%d bytes came back as %d", n, len(got))
		}
		sealed[len(sealed)-1] ^= 1
		op := hsm.Op{Kind: hsm.OpDecrypt, Mech: gcm, Key: aes, In: sealed}
		if err := s.Do(&op); err != nil || op.Err == nil || len(op.Out) != 0 {
			t.Errorf("a forged ciphertext of %d bytes: %d bytes, %v, %v", n, len(op.Out), err, op.Err)
		} else if f := hsm.FaultOf(op.Err); f != hsm.Caller && f != hsm.Suspect {
			t.Errorf("a forged ciphertext is a fault %v: %v", f, op.Err)
		}
	}
	if got := run(t, s, hsm.Op{Kind: hsm.OpRandom, Len: 100}); len(got) != 100 || bytes.Equal(got, make([]byte, 100)) {
		t.Errorf("random bytes: %d", len(got))
	}

	kek, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
		if !w.Info().Has(m) {
			continue
		}
		key, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: id(4), Extractable: true, May: hsm.MayEncrypt | hsm.MayDecrypt})
		if err != nil {
			t.Fatal(err)
		}
		sealed := run(t, s, hsm.Op{Kind: hsm.OpEncrypt, Mech: gcm, Key: key, In: []byte("text")})
		blob, err := s.WrapKey(kek, hsm.Mechanism{Type: m}, key)
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if err := s.Destroy(key); err != nil {
			t.Fatal(err)
		}
		back, err := s.UnwrapKey(kek, hsm.Mechanism{Type: m}, blob, hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: id(5), May: hsm.MayEncrypt | hsm.MayDecrypt})
		if err != nil {
			t.Fatalf("%s: %v", m, err)
		}
		if got := run(t, s, hsm.Op{Kind: hsm.OpDecrypt, Mech: gcm, Key: back, In: sealed}); string(got) != "text" {
			t.Errorf("%s: the key that came back opens to %q", m, got)
		}
		blob[3] ^= 1
		if _, err := s.UnwrapKey(kek, hsm.Mechanism{Type: m}, blob, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayDecrypt}); err == nil || hsm.FaultOf(err) == hsm.Device {
			t.Errorf("%s: a forged blob: %v", m, err)
		}
	}
	if _, err := s.Find(hsm.ClassSecret, id(99)); err != hsm.ErrNotFound {
		t.Errorf("no such key: %v", err)
	}
}
