//go:build cgo

package pkcs11

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"keyway/hsm"
)

// vector is one test of project Wycheproof's AEAD, key wrapping and MAC files.
type vector struct {
	ID                         int `json:"tcId"`
	Key, IV, AAD, Msg, CT, Tag string
	Result                     string
	ivSize, tagSize            int
}

func vectors(t *testing.T, file string) []vector {
	t.Helper()
	p := filepath.Join("..", "..", "..", "shared", "vectors", "wycheproof", file)
	b, err := os.ReadFile(p)
	if os.IsNotExist(err) {
		t.Skipf("no published vectors at %s", p)
	}
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		TestGroups []struct {
			IVSize, TagSize int
			Tests           []vector
		}
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	var out []vector
	for _, g := range f.TestGroups {
		for _, v := range g.Tests {
			v.ivSize, v.tagSize = g.IVSize, g.TagSize
			out = append(out, v)
		}
	}
	return out
}

// judge fails unless the token agrees with the vector, and its refusals are faults of the input.
func judge(t *testing.T, v vector, op *hsm.Op, want []byte) {
	t.Helper()
	right := op.Err == nil && bytes.Equal(op.Out, want)
	switch {
	case v.Result == "valid" && !right:
		t.Errorf("vector %d is valid: %v", v.ID, op.Err)
	case v.Result == "invalid" && op.Err == nil:
		t.Errorf("vector %d is invalid and was accepted", v.ID)
	case v.Result == "acceptable" && op.Err == nil && !right:
		t.Errorf("vector %d was accepted as something else", v.ID)
	}
	if f := hsm.FaultOf(op.Err); op.Err != nil && f != hsm.Caller && f != hsm.Suspect {
		t.Errorf("vector %d is a %s fault: %v", v.ID, f, op.Err)
	}
}

func runVector(t *testing.T, s *Session, spec hsm.Spec, raw []byte, op *hsm.Op) {
	t.Helper()
	h, err := s.Import(spec, raw)
	if err != nil {
		t.Fatal(err)
	}
	op.Key = h
	if err := s.Do(op); err != nil {
		t.Fatalf("the session is lost: %v", err)
	}
	if err := s.Destroy(h); err != nil {
		t.Fatal(err)
	}
}

func TestWycheproofVectors(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		t.Run("aes-gcm", func(t *testing.T) {
			n := 0
			for _, v := range vectors(t, "aes_gcm_test.json") {
				if v.ivSize != 8*hsm.GCMIVSize || v.tagSize != 8*hsm.GCMTagSize {
					continue // Keyway knows no other sizes
				}
				n++
				raw := unhex(v.Key)
				op := hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: unhex(v.AAD)}, In: unhex(v.IV + v.CT + v.Tag)}
				runVector(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 8 * len(raw), May: aesMay}, raw, &op)
				judge(t, v, &op, unhex(v.Msg))
			}
			if n < 100 {
				t.Errorf("only %d vectors ran", n)
			}
		})
		t.Run("aes-wrap", func(t *testing.T) {
			n := 0
			for _, v := range vectors(t, "aes_wrap_test.json") {
				n++
				raw := unhex(v.Key)
				op := hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, In: unhex(v.CT)}
				runVector(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 8 * len(raw), May: aesMay}, raw, &op)
				judge(t, v, &op, unhex(v.Msg))
			}
			if n < 100 {
				t.Errorf("only %d vectors ran", n)
			}
		})
		t.Run("hmac-sha-256", func(t *testing.T) {
			n := 0
			// The unit of these sizes is the byte.
			least := int(tok.Info().Mechanisms[hsm.SHA256HMAC].Min)
			for _, v := range vectors(t, "hmac_sha256_test.json") {
				raw := unhex(v.Key)
				if v.tagSize != 256 || v.Result != "valid" || len(raw) < least {
					continue // the gateway compares; the token only computes, with keys of the sizes it says
				}
				n++
				op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, In: unhex(v.Msg)}
				runVector(t, s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 8 * len(raw), May: hsm.MaySign}, raw, &op)
				judge(t, v, &op, unhex(v.Tag))
			}
			if n < 20 {
				t.Errorf("only %d vectors ran", n)
			}
		})
	})
}
