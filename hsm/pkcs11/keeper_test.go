//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"testing"

	"keyway/hsm"
)

// specimen is one private or secret key of each kind, in clear.
type specimen struct {
	spec hsm.Spec
	der  []byte // PKCS#8, or the raw secret
	pub  crypto.PublicKey
	mech hsm.Mechanism
	in   []byte
}

func specimens(t *testing.T) []specimen {
	t.Helper()
	d := sha256.Sum256([]byte("message"))
	out := []specimen{{
		spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign},
		der:  bytes.Repeat([]byte{9}, 32), mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, in: []byte("message"),
	}, {
		spec: hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MaySign},
		der:  bytes.Repeat([]byte{8}, 32), mech: hsm.Mechanism{Type: hsm.AESCMAC}, in: []byte("message"),
	}}
	add := func(spec hsm.Spec, k crypto.Signer, mech hsm.Mechanism, in []byte) {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		spec.May = hsm.MaySign
		out = append(out, specimen{spec, der, k.Public(), mech, in})
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		add(hsm.Spec{Type: hsm.KeyEC, Bits: c.Params().BitSize}, k, hsm.Mechanism{Type: hsm.ECDSA}, d[:])
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	add(hsm.Spec{Type: hsm.KeyRSA, Bits: 2048}, r, hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256}, d[:])
	_, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add(hsm.Spec{Type: hsm.KeyEd25519, Bits: 256}, e, hsm.Mechanism{Type: hsm.EDDSA}, []byte("message"))
	return out
}

// proves that h on the token is the specimen.
func (x *specimen) proves(t *testing.T, s *Session, h hsm.Handle, want []byte) []byte {
	t.Helper()
	got := do(t, s, &hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: x.in})
	if x.pub == nil {
		if want != nil && !bytes.Equal(got, want) {
			t.Errorf("%s: another key came back", x.mech.Type)
		}
		return got
	}
	if err := hsm.Verify(x.pub, x.mech, x.in, got); err != nil {
		t.Errorf("%s: %v", x.mech.Type, err)
	}
	return got
}

func newKEK(t testing.TB, s *Session) hsm.Handle {
	return generate(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap})
}

func TestImportWrapUnwrap(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		for _, x := range specimens(t) {
			if !tok.Info().Has(x.mech.Type) {
				continue // TestSignaturesVerify sees that it is refused
			}
			for _, m := range []hsm.MechanismType{hsm.AESKeyWrap, hsm.AESKeyWrapKWP} {
				if !tok.Info().Has(m) {
					continue
				}
				t.Run(fmt.Sprintf("%s-%d/%s", x.mech.Type, x.spec.Bits, m), func(t *testing.T) {
					s := keeper(t, tok)
					kek, mech := newKEK(t, s), hsm.Mechanism{Type: m}
					spec := x.spec
					spec.Extractable = true
					h, err := s.Import(spec, x.der)
					if err != nil {
						t.Fatal(err)
					}
					mac := x.proves(t, s, h, nil)
					blob, err := s.WrapKey(kek, mech, h)
					if tok.profile.WrapWholeOnly && m == hsm.AESKeyWrap && errors.Is(err, hsm.ErrUnsupported) {
						return // the row in the profile says so
					}
					if err != nil {
						t.Fatal(err)
					}
					u, err := s.UnwrapKey(kek, mech, blob, x.spec)
					if err != nil {
						t.Fatal(err)
					}
					x.proves(t, s, u, mac)
					if _, err := s.WrapKey(kek, mech, u); err == nil {
						t.Error("a key unwrapped without Extractable can be wrapped")
					}
					blob[9] ^= 1
					if _, err := s.UnwrapKey(kek, mech, blob, x.spec); hsm.FaultOf(err) != hsm.Caller && hsm.FaultOf(err) != hsm.Suspect {
						t.Errorf("a bad blob: %v", err)
					}
				})
			}
		}
	})
}

// A blob made elsewhere is PKCS#8 padded with zeros to a multiple of 8: what a pool of several vendors' tokens shares.
func TestBlobsOfOthersUnwrap(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		for _, x := range specimens(t) {
			if !tok.Info().Has(x.mech.Type) {
				continue
			}
			t.Run(fmt.Sprintf("%s-%d", x.mech.Type, x.spec.Bits), func(t *testing.T) {
				s := keeper(t, tok)
				kek := newKEK(t, s)
				padded := append(bytes.Clone(x.der), make([]byte, (8-len(x.der)%8)%8)...)
				mech := hsm.Mechanism{Type: hsm.AESKeyWrap}
				blob := do(t, s, &hsm.Op{Kind: hsm.OpWrap, Mech: mech, Key: kek, In: padded})
				u, err := s.UnwrapKey(kek, mech, blob, x.spec)
				if err != nil {
					t.Fatal(err)
				}
				x.proves(t, s, u, nil)
			})
		}
	})
}

func TestTokenPairIsFoundAndDestroyedWhole(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s, other := keeper(t, tok), keeper(t, tok)
		id := make([]byte, 16)
		_, _ = rand.Read(id)
		h := generate(t, s, hsm.Spec{Type: hsm.KeyEC, Bits: 256, ID: id, Label: "pair", Token: true, May: hsm.MaySign})
		found, err := other.Find(hsm.ClassPrivate, id)
		if err != nil || found != h {
			t.Fatalf("Find = %d, %v; want %d", found, err, h)
		}
		a, err := s.Public(h)
		if err != nil {
			t.Fatal(err)
		}
		b, err := other.Public(found)
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("another session reads another public key: %v", err)
		}
		if err := other.Destroy(found); err != nil {
			t.Fatal(err)
		}
		for _, c := range []hsm.Class{hsm.ClassPrivate, hsm.ClassPublic} {
			if _, err := s.Find(c, id); !errors.Is(err, hsm.ErrNotFound) {
				t.Errorf("class %d after Destroy: %v", c, err)
			}
		}
	})
}

func TestFindTellsAmbiguity(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		spec := hsm.Spec{Type: hsm.KeyAES, Bits: 128, ID: []byte("twice"), May: hsm.MayEncrypt}
		generate(t, s, spec)
		h := generate(t, s, spec)
		if _, err := s.Find(hsm.ClassSecret, spec.ID); !errors.Is(err, hsm.ErrAmbiguous) {
			t.Errorf("two objects: %v", err)
		}
		if err := s.Destroy(h); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Find(hsm.ClassSecret, spec.ID); err != nil {
			t.Errorf("one object: %v", err)
		}
	})
}

func TestImportPublic(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		for _, x := range specimens(t) {
			if x.pub == nil || !tok.Info().Has(x.mech.Type) {
				continue
			}
			s := keeper(t, tok)
			der, err := x509.MarshalPKIXPublicKey(x.pub)
			if err != nil {
				t.Fatal(err)
			}
			h, err := s.Import(hsm.Spec{Class: hsm.ClassPublic, Type: x.spec.Type, Bits: x.spec.Bits, May: hsm.MayVerify}, der)
			if err != nil {
				t.Errorf("%s: %v", x.mech.Type, err)
				continue
			}
			if got, err := s.Public(h); err != nil || !bytes.Equal(got, der) {
				t.Errorf("%s: the public key came back otherwise: %v", x.mech.Type, err)
			}
		}
	})
}

func TestImportRefusesWhatDoesNotFit(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) {
		s := keeper(t, tok)
		f := func(spec hsm.Spec, material []byte) {
			t.Helper()
			if _, err := s.Import(spec, material); !errors.Is(err, hsm.ErrInput) {
				t.Errorf("%+v: %v", spec, err)
			}
		}
		f(hsm.Spec{Type: hsm.KeyAES, Bits: 256}, make([]byte, 16))
		f(hsm.Spec{Type: hsm.KeyAES, Bits: 100}, make([]byte, 16))
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 256}, []byte("no DER"))
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 256}, append(specimens(t)[2].der, 1))
		f(hsm.Spec{Type: hsm.KeyEC, Bits: 384}, specimens(t)[2].der)
		f(hsm.Spec{Type: hsm.KeyRSA, Bits: 2048}, specimens(t)[2].der)
		f(hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyAES, Bits: 256}, make([]byte, 32))
	})
}

func TestBlobsTravelBetweenVendors(t *testing.T) {
	a, b := openToken(t, softHSM(t)), openToken(t, nss(t))
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	mech := hsm.Mechanism{Type: hsm.AESKeyWrap}
	for _, x := range specimens(t) {
		for _, way := range []struct {
			name     string
			from, to *Token
		}{{"softhsm-nss", a, b}, {"nss-softhsm", b, a}} {
			if !way.from.Info().Has(x.mech.Type) || !way.to.Info().Has(x.mech.Type) {
				continue // Ed25519 is on one of them only
			}
			t.Run(fmt.Sprintf("%s-%d/%s", x.mech.Type, x.spec.Bits, way.name), func(t *testing.T) {
				from, to := keeper(t, way.from), keeper(t, way.to)
				var kek [2]hsm.Handle
				for i, s := range []*Session{from, to} {
					var err error
					if kek[i], err = s.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap}, raw); err != nil {
						t.Fatal(err)
					}
				}
				spec := x.spec
				spec.Extractable = true
				h, err := from.Import(spec, x.der)
				if err != nil {
					t.Fatal(err)
				}
				blob, err := from.WrapKey(kek[0], mech, h)
				if way.from.profile.WrapWholeOnly && errors.Is(err, hsm.ErrUnsupported) {
					return // the row in the profile says so
				}
				if err != nil {
					t.Fatal(err)
				}
				u, err := to.UnwrapKey(kek[1], mech, blob, x.spec)
				if err != nil {
					t.Fatal(err)
				}
				x.proves(t, to, u, x.proves(t, from, h, nil))
			})
		}
	}
}
