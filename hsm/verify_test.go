package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os/exec"
	"testing"
)

func TestVerify(t *testing.T) {
	msg := []byte("message")
	digest := func(h Hash) []byte {
		d := h.Crypto().New()
		d.Write(msg)
		return d.Sum(nil)
	}
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	// good checks a signature, then every way in which it is not the one.
	good := func(pub, stranger crypto.PublicKey, m Mechanism, in, sig []byte) {
		t.Helper()
		if err := Verify(pub, m, in, sig); err != nil {
			t.Errorf("%s %s: %v", m.Type, m.Hash, err)
		}
		bad := func(what string, pub crypto.PublicKey, in, sig []byte) {
			t.Helper()
			if err := Verify(pub, m, in, sig); err != ErrSignature {
				t.Errorf("%s %s: %s: %v, want ErrSignature", m.Type, m.Hash, what, err)
			}
		}
		bad("another key", stranger, in, sig)
		for _, at := range []int{0, len(sig) / 2, len(sig) - 1} {
			sig[at] ^= 1
			bad("a changed signature", pub, in, sig)
			sig[at] ^= 1
		}
		in[0] ^= 1
		bad("a changed input", pub, in, sig)
		in[0] ^= 1
		bad("no signature", pub, in, nil)
		bad("a short signature", pub, in, sig[:len(sig)-1])
		bad("a long signature", pub, in, append(sig[:len(sig):len(sig)], 0))
		bad("zeros", pub, in, make([]byte, len(sig)))
	}
	for _, h := range []Hash{SHA256, SHA384, SHA512} {
		d := digest(h)
		sig, err := rsa.SignPKCS1v15(rand.Reader, rk, h.Crypto(), d)
		if err != nil {
			t.Fatal(err)
		}
		good(&rk.PublicKey, &other.PublicKey, Mechanism{Type: RSAPKCS, Hash: h}, d, sig)
		for _, salt := range []int{rsa.PSSSaltLengthEqualsHash, 0, 20} {
			sig, err := rsa.SignPSS(rand.Reader, rk, h.Crypto(), d, &rsa.PSSOptions{SaltLength: salt})
			if err != nil {
				t.Fatal(err)
			}
			m := Mechanism{Type: RSAPKCSPSS, Hash: h}
			if salt == rsa.PSSSaltLengthEqualsHash {
				good(&rk.PublicKey, &other.PublicKey, m, d, sig)
			} else if err := Verify(&rk.PublicKey, m, d, sig); err != ErrSignature {
				t.Errorf("a salt of %d bytes: %v", salt, err)
			}
		}
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		d := digest(SHA256)
		r, s, err := ecdsa.Sign(rand.Reader, k, d)
		if err != nil {
			t.Fatal(err)
		}
		n := (c.Params().BitSize + 7) / 8
		sig := append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
		good(&k.PublicKey, &stranger.PublicKey, Mechanism{Type: ECDSA}, d, sig)
		asn1, err := ecdsa.SignASN1(rand.Reader, k, d)
		if err != nil {
			t.Fatal(err)
		}
		tooLarge := append(new(big.Int).Add(r, c.Params().N).FillBytes(make([]byte, n+1))[1:], sig[n:]...)
		for what, sig := range map[string][]byte{"DER": asn1, "r beyond the order": tooLarge} {
			if err := Verify(&k.PublicKey, Mechanism{Type: ECDSA}, d, sig); err != ErrSignature {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good(pub, stranger, Mechanism{Type: EDDSA}, msg, ed25519.Sign(priv, msg))
}

// What does not go together is the caller's fault, whatever it is, and no signature of his.
func TestVerifyRefusesWhatDoesNotFit(t *testing.T) {
	rk, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := func(pub crypto.PublicKey, m Mechanism, in []byte) {
		t.Helper()
		err := Verify(pub, m, in, make([]byte, 64))
		if !errors.Is(err, ErrInput) || errors.Is(err, ErrSignature) || FaultOf(err) != Caller {
			t.Errorf("%T with %s of %d bytes: %v", pub, m.Type, len(in), err)
		}
	}
	d := make([]byte, 32)
	for _, k := range []crypto.PublicKey{&rk.PublicKey, &ek.PublicKey, pub, nil, "no key", ek} {
		for _, m := range []MechanismType{AESGCM, SHA256HMAC, AESKeyWrap, RSAPKCSOAEP, 0x7777} {
			f(k, Mechanism{Type: m, Hash: SHA256}, d)
		}
	}
	f(&rk.PublicKey, Mechanism{Type: ECDSA, Hash: SHA256}, d)
	f(&ek.PublicKey, Mechanism{Type: RSAPKCS, Hash: SHA256}, d)
	f(&ek.PublicKey, Mechanism{Type: EDDSA}, d)
	f(pub, Mechanism{Type: ECDSA}, d)
	f(pub[:31], Mechanism{Type: EDDSA}, d)
	for _, m := range []MechanismType{RSAPKCS, RSAPKCSPSS} {
		f(&rk.PublicKey, Mechanism{Type: m}, d)
		f(&rk.PublicKey, Mechanism{Type: m, Hash: 77}, d)
		f(&rk.PublicKey, Mechanism{Type: m, Hash: SHA512}, d)
		f(&rk.PublicKey, Mechanism{Type: m, Hash: SHA256}, nil)
		f(&rk.PublicKey, Mechanism{Type: m, Hash: SHA1}, make([]byte, 20)) // SHA-1 is for OAEP only
		f(&rsa.PublicKey{N: big.NewInt(0xfff1), E: 3}, Mechanism{Type: m, Hash: SHA256}, d)
	}
	f(&ek.PublicKey, Mechanism{Type: ECDSA}, nil) // OpSign takes none either
}

// TestVerifyAgreesWithOpenSSL has a signature that Go did not make.
func TestVerifyAgreesWithOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	run := func(args ...string) []byte {
		t.Helper()
		c := exec.CommandContext(t.Context(), openssl, args...)
		c.Dir = dir
		out, err := c.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "k.pem")
	block, _ := pem.Decode(run("pkey", "-in", "k.pem", "-pubout"))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	run("rand", "-out", "d", "48")
	d := run("dgst", "-sha384", "-binary", "d")
	run("dgst", "-sha384", "-binary", "-out", "digest", "d")
	for m, opts := range map[MechanismType][]string{
		RSAPKCS:    {"-pkeyopt", "digest:sha384"},
		RSAPKCSPSS: {"-pkeyopt", "digest:sha384", "-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"},
	} {
		sig := run(append([]string{"pkeyutl", "-sign", "-inkey", "k.pem", "-in", "digest"}, opts...)...)
		if err := Verify(pub, Mechanism{Type: m, Hash: SHA384}, d, sig); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
}
