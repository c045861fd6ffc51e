package hsmtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"keyway/hsm"
)

// Hex is bytes that JSON holds in hexadecimal.
type Hex []byte

// UnmarshalText reads them.
func (h *Hex) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

// Vector is one test of Project Wycheproof, with what its group says. Fields that a file does not have are empty.
type Vector struct {
	ID                          int `json:"tcId"`
	Comment                     string
	Key, IV, AAD, Msg, Tag, Sig Hex
	Text                        Hex    `json:"ct"`
	Result                      string // "valid", "invalid" or "acceptable"

	IVSize, TagSize int `json:"-"` // bits
	PublicKey       Hex `json:"-"` // SubjectPublicKeyInfo
}

// Vectors reads a file of Project Wycheproof, which stands beside the checkout, or skips the test, saying so.
func Vectors(t testing.TB, file string) []Vector {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) { // from the package up to the checkout
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		} else if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
	name := filepath.Join(dir, "..", "shared", "vectors", "wycheproof", file)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no published vectors at %s", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		NumberOfTests int
		TestGroups    []struct {
			IVSize, TagSize int
			PublicKeyDer    Hex
			Tests           []Vector
		}
	}
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var out []Vector
	for _, g := range all.TestGroups {
		for _, v := range g.Tests {
			v.IVSize, v.TagSize, v.PublicKey = g.IVSize, g.TagSize, g.PublicKeyDer
			out = append(out, v)
		}
	}
	if len(out) != all.NumberOfTests || len(out) == 0 {
		t.Fatalf("%s has %d tests and says %d", file, len(out), all.NumberOfTests)
	}
	return out
}

// TestVectors runs Project Wycheproof's vectors for every operation of the contract that has some. accepts names
// invalid vectors that the token is known to accept, as "file:ID"; one that it refuses after all is an error.
func TestVectors(t *testing.T, tok hsm.Token, accepts ...string) {
	t.Helper()
	t.Run("AES-GCM", func(t *testing.T) {
		x := &tester{t, tok, tok.Info()}
		n, s := 0, x.session()
		for _, v := range Vectors(t, "aes_gcm_test.json") {
			if v.IVSize != 8*hsm.GCMIVSize || v.TagSize != 8*hsm.GCMTagSize {
				continue // Keyway has no other sizes
			}
			n++
			h := x.load(s, hsm.Spec{Type: hsm.KeyAES, Bits: 8 * len(v.Key), May: mayAll}, v.Key)
			op := hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: v.AAD}, Key: h, In: slices.Concat(v.IV, v.Text, v.Tag)}
			v.judge(t, s, "aes_gcm", op, v.Msg, accepts)
			if err := s.Destroy(h); err != nil {
				t.Fatal(err)
			}
		}
		enough(t, n, 150)
	})
	t.Run("AES-KW", func(t *testing.T) {
		x := &tester{t, tok, tok.Info()}
		n, s := 0, x.session()
		for _, v := range Vectors(t, "aes_wrap_test.json") {
			n++
			h := x.load(s, hsm.Spec{Type: hsm.KeyAES, Bits: 8 * len(v.Key), May: mayAll}, v.Key)
			kw := hsm.Mechanism{Type: hsm.AESKeyWrap}
			v.judge(t, s, "aes_wrap", hsm.Op{Kind: hsm.OpUnwrap, Mech: kw, Key: h, In: v.Text}, v.Msg, accepts)
			if v.Result == "valid" && len(v.Msg) >= 16 {
				v.judge(t, s, "aes_wrap", hsm.Op{Kind: hsm.OpWrap, Mech: kw, Key: h, In: v.Msg}, v.Text, accepts)
			}
			if err := s.Destroy(h); err != nil {
				t.Fatal(err)
			}
		}
		enough(t, n, 160)
	})
	t.Run("HMAC-SHA-256", func(t *testing.T) {
		x := &tester{t, tok, tok.Info()}
		n, s := 0, x.session()
		for _, v := range Vectors(t, "hmac_sha256_test.json") {
			least := x.info.Mechanisms[hsm.SHA256HMAC].Min // in bytes
			if uint64(len(v.Key)) < least {
				continue // the token says that it takes none so short, and the suite sees that it does not
			}
			n++
			h := x.load(s, hsm.Spec{Type: hsm.KeyGeneric, Bits: 8 * len(v.Key), May: hsm.MaySign}, v.Key)
			got := x.run(s, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: h, In: v.Msg})
			if right := hmac.Equal(got[:v.TagSize/8], v.Tag); len(got) != sha256.Size || right != (v.Result == "valid") {
				t.Errorf("vector %d (%s), which is %s: %x", v.ID, v.Comment, v.Result, got)
			}
			if err := s.Destroy(h); err != nil {
				t.Fatal(err)
			}
		}
		enough(t, n, 100)
	})
}

// judge runs op and fails unless its outcome is what the vector says: its result, or the caller's fault.
func (v *Vector) judge(t *testing.T, s hsm.Session, file string, op hsm.Op, want []byte, accepts []string) {
	t.Helper()
	if err := s.Do(&op); err != nil {
		t.Fatalf("vector %d lost the session: %v", v.ID, err)
	}
	right := op.Err == nil && bytes.Equal(op.Out, want)
	known := slices.Contains(accepts, file+":"+strconv.Itoa(v.ID))
	switch {
	case v.Result == "valid" && !right:
		t.Errorf("vector %d (%s), which is valid: %v", v.ID, v.Comment, op.Err)
	case v.Result == "invalid" && op.Err == nil && !known:
		t.Errorf("vector %d (%s), which is invalid, was accepted", v.ID, v.Comment)
	case v.Result == "invalid" && op.Err != nil && known:
		t.Errorf("vector %d is refused by this token: take it from the list", v.ID)
	case v.Result == "acceptable" && op.Err == nil && !right:
		t.Errorf("vector %d (%s) was accepted as something else", v.ID, v.Comment)
	}
	if op.Err != nil {
		(&tester{T: t}).callers(op.Err, "vector "+strconv.Itoa(v.ID))
	}
}

func enough(t *testing.T, n, least int) {
	t.Helper()
	if n < least {
		t.Errorf("only %d vectors ran, want %d", n, least)
	}
}
