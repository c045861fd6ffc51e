//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"testing"

	"keyway/hsm"
)

const aesMay = hsm.MayEncrypt | hsm.MayDecrypt | hsm.MayWrap | hsm.MayUnwrap

func TestAESGCMAgreesWithGo(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		raw := bytes.Repeat([]byte{7}, 32)
		k, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: aesMay}, raw)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := aes.NewCipher(raw)
		g, _ := cipher.NewGCM(b)
		for _, n := range []int{0, 1, 15, 16, 17, 1000, 70000} {
			for _, aad := range [][]byte{nil, []byte("context")} {
				plain := make([]byte, n)
				_, _ = rand.Read(plain)
				mech := hsm.Mechanism{Type: hsm.AESGCM, AAD: aad}
				ct := do(t, s, &hsm.Op{Kind: hsm.OpEncrypt, Mech: mech, Key: k, In: plain})
				got, err := g.Open(nil, ct[:12], ct[12:], aad)
				if err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("Go does not open what the token encrypted of %d bytes: %v", n, err)
				}
				if p := do(t, s, &hsm.Op{Kind: hsm.OpDecrypt, Mech: mech, Key: k, In: ct}); !bytes.Equal(p, plain) {
					t.Fatalf("%d bytes came back as %d others", n, len(p))
				}
				ct[len(ct)-1] ^= 1
				op := hsm.Op{Kind: hsm.OpDecrypt, Mech: mech, Key: k, In: ct, Out: make([]byte, 0, n+100)}
				if err := s.Do(&op); err != nil {
					t.Fatalf("a bad tag cost the session: %v", err)
				}
				if f := hsm.FaultOf(op.Err); f != hsm.Caller && f != hsm.Suspect {
					t.Fatalf("a bad tag is a %s fault: %v", f, op.Err)
				}
				if len(op.Out) != 0 || bytes.ContainsFunc(op.Out[:cap(op.Out)], func(r rune) bool { return r != 0 }) {
					t.Fatal("a failed decryption left something in Out")
				}
			}
		}
	})
}

func TestHMACAndCMACAgreeWithGo(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		// As long as the longest digest: SoftHSM refuses shorter HMAC keys.
		raw := bytes.Repeat([]byte{3}, 64)
		k, err := s.Import(hsm.Spec{Type: hsm.KeyGeneric, Bits: 512, May: hsm.MaySign}, raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, msg := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("message"), 1000)} {
			h := hmac.New(sha256.New, raw)
			h.Write(msg)
			if got := do(t, s, &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: k, In: msg}); !bytes.Equal(got, h.Sum(nil)) {
				t.Errorf("HMAC-SHA-256 of %d bytes differs", len(msg))
			}
			h = hmac.New(sha512.New, raw)
			h.Write(msg)
			if got := do(t, s, &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA512HMAC}, Key: k, In: msg}); !bytes.Equal(got, h.Sum(nil)) {
				t.Errorf("HMAC-SHA-512 of %d bytes differs", len(msg))
			}
		}
		// RFC 4493, example 2.
		c, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 128, May: hsm.MaySign}, unhex("2b7e151628aed2a6abf7158809cf4f3c"))
		if err != nil {
			t.Fatal(err)
		}
		got := do(t, s, &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.AESCMAC}, Key: c, In: unhex("6bc1bee22e409f96e93d7e117393172a")})
		if want := unhex("070a16b46b4d4144f79bdd9dd04a287c"); !bytes.Equal(got, want) {
			t.Errorf("AES-CMAC = %x, want %x", got, want)
		}
	})
}

func TestSignaturesVerify(t *testing.T) {
	digest := map[hsm.Hash][]byte{}
	for _, h := range []hsm.Hash{hsm.SHA256, hsm.SHA384, hsm.SHA512} {
		d := h.Crypto().New()
		d.Write([]byte("message"))
		digest[h] = d.Sum(nil)
	}
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		f := func(spec hsm.Spec, m hsm.Mechanism, in []byte) {
			t.Helper()
			spec.May |= hsm.MaySign
			h := generate(t, s, spec)
			der, err := s.Public(h)
			if err != nil {
				t.Fatal(err)
			}
			pub, err := x509.ParsePKIXPublicKey(der)
			if err != nil {
				t.Fatal(err)
			}
			sig := do(t, s, &hsm.Op{Kind: hsm.OpSign, Mech: m, Key: h, In: in})
			if err := hsm.Verify(pub, m, in, sig); err != nil {
				t.Errorf("%s with a key of %d bits: %v", m.Type, spec.Bits, err)
			}
			if err := s.Destroy(h); err != nil {
				t.Error(err)
			}
		}
		for h, d := range digest {
			f(hsm.Spec{Type: hsm.KeyRSA, Bits: 2048}, hsm.Mechanism{Type: hsm.RSAPKCS, Hash: h}, d)
			f(hsm.Spec{Type: hsm.KeyRSA, Bits: 2048}, hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: h}, d)
		}
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 256}, hsm.Mechanism{Type: hsm.ECDSA}, digest[hsm.SHA256])
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 384}, hsm.Mechanism{Type: hsm.ECDSA}, digest[hsm.SHA384])
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 521}, hsm.Mechanism{Type: hsm.ECDSA}, digest[hsm.SHA512])
		if tok.Info().Has(hsm.EDDSA) {
			f(hsm.Spec{Type: hsm.KeyEd25519, Bits: 256}, hsm.Mechanism{Type: hsm.EDDSA}, []byte("message"))
		} else if _, err := s.Generate(hsm.Spec{Type: hsm.KeyEd25519, Bits: 256, May: hsm.MaySign}); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("Ed25519 on a token without it: %v", err)
		}
	})
}

func TestOAEPWithEveryHashTheTokenClaims(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		h := generate(t, s, hsm.Spec{Type: hsm.KeyRSA, Bits: 2048, May: hsm.MayDecrypt})
		der, err := s.Public(h)
		if err != nil {
			t.Fatal(err)
		}
		pub, _ := x509.ParsePKIXPublicKey(der)
		for _, hash := range []hsm.Hash{hsm.SHA1, hsm.SHA256, hsm.SHA384, hsm.SHA512} {
			ct, err := rsa.EncryptOAEP(hash.Crypto().New(), rand.Reader, pub.(*rsa.PublicKey), []byte("secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			op := hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: hash}, Key: h, In: ct}
			if err := s.Do(&op); err != nil {
				t.Fatal(err)
			}
			claimed := false
			for _, c := range tok.Info().OAEPHashes {
				claimed = claimed || c == hash
			}
			switch {
			case claimed && (op.Err != nil || string(op.Out) != "secret"):
				t.Errorf("%s: %v", hash, op.Err)
			case !claimed && !errors.Is(op.Err, hsm.ErrUnsupported):
				t.Errorf("%s is not claimed and gave %v", hash, op.Err)
			}
		}
	})
}

func TestWrapBytesAndBack(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		// RFC 3394, 4.6 and RFC 5649, section 6.
		kek, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: aesMay}, unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"))
		if err != nil {
			t.Fatal(err)
		}
		kek2, err := s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 192, May: aesMay}, unhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
		if err != nil {
			t.Fatal(err)
		}
		f := func(m hsm.MechanismType, kek hsm.Handle, clear, wrapped string) {
			t.Helper()
			mech := hsm.Mechanism{Type: m}
			if !tok.Info().Has(m) {
				op := hsm.Op{Kind: hsm.OpWrap, Mech: mech, Key: kek, In: unhex(clear)}
				if err := s.Do(&op); err != nil || !errors.Is(op.Err, hsm.ErrUnsupported) {
					t.Errorf("%s on a token without it: %v, %v", m, err, op.Err)
				}
				return
			}
			if got := do(t, s, &hsm.Op{Kind: hsm.OpWrap, Mech: mech, Key: kek, In: unhex(clear)}); !bytes.Equal(got, unhex(wrapped)) {
				t.Errorf("%s made %x, want %s", m, got, wrapped)
			}
			if got := do(t, s, &hsm.Op{Kind: hsm.OpUnwrap, Mech: mech, Key: kek, In: unhex(wrapped)}); !bytes.Equal(got, unhex(clear)) {
				t.Errorf("%s opened to %x, want %s", m, got, clear)
			}
			bad := unhex(wrapped)
			bad[3] ^= 1
			op := hsm.Op{Kind: hsm.OpUnwrap, Mech: mech, Key: kek, In: bad}
			if err := s.Do(&op); err != nil {
				t.Errorf("a bad blob cost the session: %v", err)
			}
			if g := hsm.FaultOf(op.Err); g != hsm.Caller && g != hsm.Suspect {
				t.Errorf("%s: a bad blob is a %s fault: %v", m, g, op.Err)
			}
		}
		f(hsm.AESKeyWrap, kek, "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f",
			"28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
		f(hsm.AESKeyWrapKWP, kek2, "c37b7e6492584340bed12207808941155068f738", "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a")
		f(hsm.AESKeyWrapKWP, kek2, "466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f")
		for _, n := range []int{16, 256, 264, 2400} {
			op := hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: kek, In: bytes.Repeat([]byte{1}, n)}
			blob := bytes.Clone(do(t, s, &op))
			if got := do(t, s, &hsm.Op{Kind: hsm.OpUnwrap, Mech: op.Mech, Key: kek, In: blob}); !bytes.Equal(got, op.In) {
				t.Errorf("%d bytes came back as %d others", n, len(got))
			}
		}
		for _, n := range []int{0, 8, 15, 20} {
			op := hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: kek, In: make([]byte, n)}
			if err := s.Do(&op); err != nil || !errors.Is(op.Err, hsm.ErrInput) {
				t.Errorf("RFC 3394 of %d bytes: %v, %v", n, err, op.Err)
			}
		}
	})
}

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

func TestDoRefusesWhatMakesNoSense(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		k := newKEK(t, s)
		f := func(op hsm.Op, want error) {
			t.Helper()
			op.Key = k
			if err := s.Do(&op); err != nil || !errors.Is(op.Err, want) {
				t.Errorf("%s with %s of %d bytes: %v, %v", op.Kind, op.Mech.Type, len(op.In), err, op.Err)
			}
		}
		m := func(t hsm.MechanismType, h hsm.Hash) hsm.Mechanism { return hsm.Mechanism{Type: t, Hash: h} }
		f(hsm.Op{Mech: m(0x7777, 0)}, hsm.ErrUnsupported)
		f(hsm.Op{Kind: 99, Mech: m(hsm.AESGCM, 0)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpSign, Mech: m(hsm.AESGCM, 0)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpEncrypt, Mech: m(hsm.ECDSA, 0)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpWrap, Mech: m(hsm.AESGCM, 0), In: make([]byte, 16)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpSign, Mech: m(hsm.RSAPKCS, hsm.SHA256), In: make([]byte, 300)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpSign, Mech: m(hsm.RSAPKCS, 0), In: make([]byte, 32)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpSign, Mech: m(hsm.RSAPKCSPSS, 77), In: make([]byte, 32)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpSign, Mech: m(hsm.ECDSA, 0)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpDecrypt, Mech: m(hsm.AESGCM, 0), In: make([]byte, 27)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpDecrypt, Mech: m(hsm.RSAPKCSOAEP, 0), In: make([]byte, 256)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpUnwrap, Mech: m(hsm.AESKeyWrap, 0), In: make([]byte, 25)}, hsm.ErrInput)
		f(hsm.Op{Kind: hsm.OpUnwrap, Mech: m(hsm.AESKeyWrap, 0), In: make([]byte, 16)}, hsm.ErrInput)
	})
}

func TestSessionObjectsEndWithTheirSession(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s, other := keeper(t, tok), keeper(t, tok)
		k := newKEK(t, s)
		op := hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: k, In: make([]byte, 16)}
		do(t, other, &op)
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Do(&op); err != nil || hsm.FaultOf(op.Err) != hsm.Stale {
			t.Errorf("a key of a closed session: %v, %v", err, op.Err)
		}
		if _, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256}); !errors.Is(err, hsm.ErrClosed) {
			t.Errorf("Generate on a closed session: %v", err)
		}
	})
}
