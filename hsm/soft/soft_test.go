package soft

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"keyway/hsm"
)

func sess(t *testing.T, k *Token) hsm.Keeper {
	t.Helper()
	s, err := k.OpenSession(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.(hsm.Keeper)
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Vectors of RFC 3394, 4.6, RFC 5649, 6, and RFC 4493, 4.
func TestPublishedVectors(t *testing.T) {
	s := sess(t, New("t"))
	f := func(kek, in, want string, m hsm.MechanismType) {
		t.Helper()
		k := unhex(t, kek)
		h, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 8 * len(k), May: hsm.MayWrap | hsm.MayUnwrap | hsm.MaySign}, k)
		if err != nil {
			t.Fatal(err)
		}
		kind := hsm.OpWrap
		if m == hsm.AESCMAC {
			kind = hsm.OpSign
		}
		op := hsm.Op{Kind: kind, Mech: hsm.Mechanism{Type: m}, Key: h, In: unhex(t, in)}
		if err := s.Do(&op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
		if got := hex.EncodeToString(op.Out); got != want {
			t.Errorf("%s: got %s, want %s", m, got, want)
		}
		if kind != hsm.OpWrap {
			return
		}
		back := hsm.Op{Kind: hsm.OpUnwrap, Mech: op.Mech, Key: h, In: op.Out}
		if err := s.Do(&back); err != nil || back.Err != nil || !bytes.Equal(back.Out, op.In) {
			t.Errorf("%s: unwrapped to %x, %v", m, back.Out, back.Err)
		}
		for i := range op.Out {
			bad := bytes.Clone(op.Out)
			bad[i] ^= 1
			back = hsm.Op{Kind: hsm.OpUnwrap, Mech: op.Mech, Key: h, In: bad}
			if err := s.Do(&back); err != nil || hsm.FaultOf(back.Err) != hsm.Caller || len(back.Out) != 0 {
				t.Fatalf("%s with byte %d changed: %v, %d bytes", m, i, back.Err, len(back.Out))
			}
		}
	}
	f("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
		"28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21", hsm.AESKeyWrap)
	f("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a", hsm.AESKeyWrapKWP)
	f("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8", "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f", hsm.AESKeyWrapKWP)
	f("2b7e151628aed2a6abf7158809cf4f3c", "", "bb1d6929e95937287fa37d129b756746", hsm.AESCMAC)
	f("2b7e151628aed2a6abf7158809cf4f3c", "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411", "dfa66747de9ae63030ca32611497c827", hsm.AESCMAC)
}

func TestATokenObjectSurvivesAndAWrongPINDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	pin := hsm.NewPIN([]byte("123456"))
	if err := Init(dir, "tok", pin); err != nil {
		t.Fatal(err)
	}
	if err := Init(dir, "tok", pin); err == nil {
		t.Error("a token was replaced")
	}
	k, err := Open(dir, "tok", pin)
	if err != nil {
		t.Fatal(err)
	}
	s := sess(t, k)
	for _, token := range []bool{true, false} {
		if _, err := s.Generate(hsm.Spec{Type: hsm.KeyEC, Bits: 256, ID: []byte{byte(len(dir)), b2i(token)}, Token: token, May: hsm.MaySign}); err != nil {
			t.Fatal(err)
		}
	}
	_ = k.Close()
	k, err = Open(dir, "tok", pin)
	if err != nil {
		t.Fatal(err)
	}
	s = sess(t, k)
	if _, err := s.Find(hsm.ClassPrivate, []byte{byte(len(dir)), 1}); err != nil {
		t.Errorf("the token object: %v", err)
	}
	if _, err := s.Find(hsm.ClassPrivate, []byte{byte(len(dir)), 0}); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("the session object: %v, want ErrNotFound", err)
	}
	if _, err := Open(dir, "tok", hsm.NewPIN([]byte("654321"))); hsm.FaultOf(err) != hsm.Locked {
		t.Errorf("a wrong PIN: %v, want a Locked fault", err)
	}
}

func b2i(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func TestKeysTravelBetweenTokensAndStayInside(t *testing.T) {
	a, b := sess(t, New("a")), sess(t, New("b"))
	kek := bytes.Repeat([]byte{7}, 32)
	spec := hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap}
	ka, err := a.Import(spec, kek)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := b.Import(spec, kek)
	if err != nil {
		t.Fatal(err)
	}
	wrap := hsm.Mechanism{Type: hsm.AESKeyWrap}
	for _, s := range []hsm.Spec{
		{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign}, {Type: hsm.KeyEC, Bits: 521, May: hsm.MaySign}, {Type: hsm.KeyEd25519, May: hsm.MaySign},
		{Type: hsm.KeyRSA, Bits: 2048, May: hsm.MaySign}, {Type: hsm.KeyAES, Bits: 128, May: hsm.MayEncrypt}, {Type: hsm.KeyGeneric, Bits: 384, May: hsm.MaySign},
	} {
		s.Extractable = true
		h, err := a.Generate(s)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := a.WrapKey(ka, wrap, h)
		if err != nil {
			t.Fatal(err)
		}
		s.Extractable = false
		h2, err := b.UnwrapKey(kb, wrap, blob, s)
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		if _, err := b.WrapKey(kb, wrap, h2); hsm.FaultOf(err) != hsm.Caller {
			t.Errorf("%+v: a key that is not extractable was wrapped: %v", s, err)
		}
		pa, errA := a.Public(h)
		pb, errB := b.Public(h2)
		if !bytes.Equal(pa, pb) || (errA == nil) != (errB == nil) {
			t.Errorf("%+v: another public half", s)
		}
	}
}
