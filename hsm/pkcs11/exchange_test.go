//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"testing"

	"keyway/hsm"
)

// TestKeyTravelsUnderPublicKey does what gives a member its Root KEK: one session takes the public half of
// the other's pair, wraps a new AES key under it, and both then compute the same.
func TestKeyTravelsUnderPublicKey(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		to, from := keeper(t, tok), keeper(t, tok)
		pair := generate(t, to, hsm.Spec{Type: hsm.KeyRSA, Bits: 2048, ID: []byte("pair"), May: hsm.MayUnwrap | hsm.MayDecrypt})
		der, err := to.Public(pair)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := from.Import(hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyRSA, Bits: 2048, ID: []byte("theirs"), May: hsm.MayWrap | hsm.MayEncrypt}, der)
		if err != nil {
			t.Fatal(err)
		}
		aes := hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: []byte("root"), May: hsm.MaySign, Extractable: true}
		k := generate(t, from, aes)
		hashes := tok.Info().OAEPHashes
		m := hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hashes[len(hashes)-1]}
		blob, err := from.WrapKey(pub, m, k)
		if err != nil {
			t.Fatal(err)
		}
		got, err := to.UnwrapKey(pair, m, blob, aes)
		if err != nil {
			t.Fatal(err)
		}
		mac := func(s hsm.Session, h hsm.Handle) []byte {
			op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: h, In: make([]byte, 16)}
			if err := errors.Join(s.Do(&op), op.Err); err != nil {
				t.Fatal(err)
			}
			return op.Out
		}
		if !bytes.Equal(mac(from, k), mac(to, got)) {
			t.Error("the key that arrived computes something else")
		}
		blob[7] ^= 1
		if _, err := to.UnwrapKey(pair, m, blob, aes); err == nil {
			t.Error("a changed blob was unwrapped")
		}
		if _, err := from.WrapKey(pub, hsm.Mechanism{Type: hsm.RSAPKCSOAEP}, k); !errors.Is(err, hsm.ErrInput) {
			t.Errorf("without a hash: %v", err)
		}
	})
}
