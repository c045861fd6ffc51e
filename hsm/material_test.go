package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
)

func TestParseMaterial(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := func(k crypto.Signer) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for _, k := range []struct {
		spec Spec
		key  crypto.Signer
	}{{Spec{Type: KeyEC, Bits: 384}, ec}, {Spec{Type: KeyEd25519}, ed}, {Spec{Type: KeyEd25519, Bits: 256}, ed}} {
		der := private(k.key)
		for _, zeros := range []int{0, 1, 7, 8, 100} { // private keys travel padded
			got, err := ParsePrivate(k.spec, append(bytes.Clone(der), make([]byte, zeros)...))
			if err != nil || !got.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.key.Public()) {
				t.Errorf("with %d zeros: %v", zeros, err)
			}
		}
		spki, err := x509.MarshalPKIXPublicKey(k.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParsePublic(k.spec, spki)
		clear(spki) // the caller's again
		if err != nil || !got.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.key.Public()) {
			t.Errorf("public: %v", err)
		}
	}
	f := func(s Spec, der []byte) {
		t.Helper()
		if k, err := ParsePrivate(s, der); !errors.Is(err, ErrInput) || k != nil {
			t.Errorf("%+v: %v, %v", s, k, err)
		}
	}
	f(Spec{Type: KeyEC, Bits: 256}, private(ec))
	f(Spec{Type: KeyEC, Bits: 384}, private(ed))
	f(Spec{Type: KeyRSA, Bits: 2048}, private(ec))
	f(Spec{Type: KeyEC, Bits: 224}, nil)
	f(Spec{Type: KeyEC, Bits: 256}, private(p224))
	f(Spec{Type: KeyEC, Bits: 384}, append(private(ec), 0, 1))
	f(Spec{Type: KeyAES, Bits: 256}, private(ec))
}

// FuzzMaterial: whatever is parsed is the key it is said to be, or the caller's fault in words that quote nothing of it.
func FuzzMaterial(f *testing.F) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, k := range []crypto.Signer{ec, ed} {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, uint8(KeyEC), 256)
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(spki, uint8(KeyEd25519), 0)
	}
	known := map[string]bool{}
	for _, s := range []string{"the private key is not DER", "something follows the private key", "the private key is no PKCS#8",
		"the private key is not of the type and size asked for", "the public key is no SubjectPublicKeyInfo", "the public key is not of the type and size asked for"} {
		known[refused("%s", s).Error()] = true
	}
	f.Fuzz(func(t *testing.T, der []byte, kt uint8, bits int) {
		s := Spec{Type: KeyType(kt), Bits: bits}
		if k, err := ParsePrivate(s, der); err == nil {
			if !s.describes(k.Public()) {
				t.Fatalf("%+v: got a %T", s, k)
			}
		} else if !known[err.Error()] || FaultOf(err) != Caller {
			t.Fatalf("private: %v", err)
		}
		if k, err := ParsePublic(s, der); err == nil {
			if !s.describes(k) {
				t.Fatalf("%+v: got a %T", s, k)
			}
		} else if !known[err.Error()] || FaultOf(err) != Caller {
			t.Fatalf("public: %v", err)
		}
	})
}
