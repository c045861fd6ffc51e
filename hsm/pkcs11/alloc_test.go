//go:build cgo && !race

package pkcs11

import (
	"testing"

	"keyway/hsm"
)

// What Do may allocate when Out is large enough: the cost of one operation, without which it would grow unseen.
func TestDoAllocations(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		aes := generate(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: aesMay})
		ec := generate(t, s, hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign})
		mac := generate(t, s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign})
		f := func(budget float64, op hsm.Op) {
			t.Helper()
			op.Out = make([]byte, 0, 1024)
			if n := testing.AllocsPerRun(100, func() { do(t, s, &op) }); n > budget {
				t.Errorf("%s with %s allocates %v times, want at most %v", op.Kind, op.Mech.Type, n, budget)
			}
		}
		ct := do(t, s, &hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: aes, In: make([]byte, 32)})
		f(0, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte("aad")}, Key: aes, In: make([]byte, 32)})
		f(0, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: aes, In: ct})
		f(0, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.ECDSA}, Key: ec, In: make([]byte, 32)})
		f(0, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: mac, In: make([]byte, 32)})
		f(0, hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: aes, In: make([]byte, 32)})
	})
}
