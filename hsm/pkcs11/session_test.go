//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/rand"
	"testing"

	"keyway/hsm"
)

func TestTooSmallABufferIsReplacedOnce(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		ec := generate(t, s, hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign})
		k := generate(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: aesMay})
		in := make([]byte, 32)
		small := make([]byte, 8)
		got, err := s.call(hsm.FnSign, ec, operation{kind: sign, mechanism: hsm.ECDSA}, nil, nil, in, small, 0)
		if err != nil || len(got) != 64 {
			t.Errorf("a signature into 8 bytes: %d bytes, %v", len(got), err)
		}
		// The IV stands before the output and must move with it.
		small = make([]byte, 20)
		_, _ = rand.Read(small[:12])
		ct, err := s.call(hsm.FnEncrypt, k, operation{kind: encrypt, mechanism: hsm.AESGCM}, small[:12], nil, in, small, 12)
		if err != nil {
			t.Fatal(err)
		}
		if p := do(t, s, &hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: k, In: ct}); !bytes.Equal(p, in) {
			t.Error("what was encrypted into too small a buffer does not come back")
		}
		small = make([]byte, 8)
		p, err := s.call(hsm.FnDecrypt, k, operation{kind: decrypt, mechanism: hsm.AESGCM}, ct[:12], nil, ct[12:], small, 0)
		if err != nil || !bytes.Equal(p, in) {
			t.Errorf("decryption into 8 bytes: %v", err)
		}
	})
}
