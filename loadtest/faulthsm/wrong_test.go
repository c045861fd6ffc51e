//go:build linux && cgo

package faulthsm

import (
	"crypto/x509"
	"errors"
	"testing"

	"keyway/hsm"
)

func TestFlipShowsWhoVerifies(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	ec, key := r.generate(s, signSpec), r.generate(s, aesSpec)
	der, err := s.Public(ec)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	digest[5] = 7
	sign := func() []byte {
		op := &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: ec, In: digest}
		if err := s.Do(op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
		return op.Out
	}
	mech := hsm.Mechanism{Type: hsm.ECDSA}
	r.add(Rule{ID: "wrong", On: []string{"C_Sign", "C_Encrypt"}, Do: []Effect{Flip()}})
	if err := hsm.Verify(spki, mech, digest, sign()); err != hsm.ErrSignature {
		t.Errorf("a signature with a flipped bit: %v", err)
	}
	op := &hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: key, In: []byte("plaintext")}
	if err := s.Do(op); err != nil || op.Err != nil {
		t.Fatal(err, op.Err)
	}
	dec := &hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: key, In: op.Out}
	if err := s.Do(dec); err != nil || dec.Err == nil {
		t.Error("a ciphertext with a flipped bit opens", err)
	}
	r.remove("wrong")
	if err := hsm.Verify(spki, mech, digest, sign()); err != nil {
		t.Errorf("without the rule: %v", err)
	}

	// Which bit can be said: a MAC is the same each time.
	k := r.generate(s, macSpec)
	good, bad := mac(k), mac(k)
	if err := errors.Join(s.Do(good), good.Err); err != nil {
		t.Fatal(err)
	}
	r.add(Rule{ID: "bit", On: []string{"C_Sign"}, Do: []Effect{FlipBit(9)}})
	if err := errors.Join(s.Do(bad), bad.Err); err != nil {
		t.Fatal(err)
	}
	for i := range good.Out {
		want := good.Out[i]
		if i == 1 {
			want ^= 0x40
		}
		if bad.Out[i] != want {
			t.Fatalf("bit 9 flipped: %x became %x", good.Out, bad.Out)
		}
	}
	r.remove("bit")

	r.add(Rule{ID: "short", On: []string{"C_Sign"}, Do: []Effect{Shorten(16)}})
	if op := mac(k); s.Do(op) != nil || codeOf(op.Err) != hsm.GeneralError {
		t.Errorf("a MAC cut short passed the driver: %v", op.Err)
	}
}
