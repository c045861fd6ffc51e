package hsmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"embed"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"testing"

	"keyway/hsm"
)

//go:embed testdata/*.der
var testdata embed.FS

// specimen is a key in clear with one way to use it.
type specimen struct {
	name     string
	spec     hsm.Spec // a session object that may sign
	material []byte   // raw bytes, or PKCS#8
	public   crypto.PublicKey
	mech     hsm.Mechanism
}

// specimens is one key of each type and size. Those of RSA are always the same.
var specimens = sync.OnceValue(func() []specimen {
	all := []specimen{
		{name: "AES-128", spec: hsm.Spec{Type: hsm.KeyAES, Bits: 128}, material: random(16), mech: hsm.Mechanism{Type: hsm.AESCMAC}},
		{name: "AES-192", spec: hsm.Spec{Type: hsm.KeyAES, Bits: 192}, material: random(24), mech: hsm.Mechanism{Type: hsm.AESCMAC}},
		{name: "AES-256", spec: hsm.Spec{Type: hsm.KeyAES, Bits: 256}, material: random(32), mech: hsm.Mechanism{Type: hsm.AESCMAC}},
		{name: "HMAC-SHA-256", spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 256}, material: random(32), mech: hsm.Mechanism{Type: hsm.SHA256HMAC}},
		{name: "HMAC-SHA-384", spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 384}, material: random(48), mech: hsm.Mechanism{Type: hsm.SHA384HMAC}},
		{name: "HMAC-SHA-512", spec: hsm.Spec{Type: hsm.KeyGeneric, Bits: 512}, material: random(64), mech: hsm.Mechanism{Type: hsm.SHA512HMAC}},
	}
	add := func(name string, s hsm.Spec, k crypto.Signer, m hsm.Mechanism) {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			panic(err) // a key Go has just made
		}
		all = append(all, specimen{name, s, der, k.Public(), m})
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		bits := c.Params().BitSize
		add(fmt.Sprintf("EC-%d", bits), hsm.Spec{Type: hsm.KeyEC, Bits: bits}, k, hsm.Mechanism{Type: hsm.ECDSA})
	}
	_, e, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	add("Ed25519", hsm.Spec{Type: hsm.KeyEd25519, Bits: 256}, e, hsm.Mechanism{Type: hsm.EDDSA})
	for _, bits := range []int{2048, 3072, 4096} {
		der, err := testdata.ReadFile(fmt.Sprintf("testdata/rsa-%d.der", bits))
		if err != nil {
			panic(err)
		}
		k, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			panic(err)
		}
		add(fmt.Sprintf("RSA-%d", bits), hsm.Spec{Type: hsm.KeyRSA, Bits: bits}, k.(crypto.Signer), hsm.Mechanism{Type: hsm.RSAPKCSPSS, Hash: hsm.SHA256})
	}
	for i := range all {
		all[i].spec.May = hsm.MaySign
	}
	return all
})

// specimen returns the one of that name.
func (t *tester) specimen(name string) specimen {
	t.Helper()
	for _, x := range specimens() {
		if x.name == name {
			return x
		}
	}
	t.Fatalf("no specimen is called %s", name)
	return specimen{}
}

// known reports whether the token knows keys of this kind.
func (x *specimen) known(i hsm.Info) bool { return i.Has(x.mech.Type) }

// spki is the public half, DER.
func (x *specimen) spki(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(x.public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// input is a message that the specimen's mechanism takes.
func (x *specimen) input() []byte { return inputFor(x.mech, []byte("message")) }

// inputFor is msg itself, or its digest where the mechanism takes one.
func inputFor(m hsm.Mechanism, msg []byte) []byte {
	h := m.Hash
	switch m.Type {
	case hsm.ECDSA:
		h = hsm.SHA256
	case hsm.RSAPKCS, hsm.RSAPKCSPSS:
	default:
		return msg
	}
	d := h.Crypto().New()
	d.Write(msg)
	return d.Sum(nil)
}

// use signs with h and returns why the result is not the specimen's, nil when it is.
func (x *specimen) use(s hsm.Session, h hsm.Handle) error {
	op := hsm.Op{Kind: hsm.OpSign, Mech: x.mech, Key: h, In: x.input()}
	if err := errors.Join(s.Do(&op), op.Err); err != nil {
		return err
	}
	if x.public != nil {
		return verify(x.public, x.mech, op.In, op.Out)
	}
	if want := mac(x.mech.Type, x.material, op.In); !bytes.Equal(op.Out, want) {
		return fmt.Errorf("%s is %x, want %x", x.mech.Type, op.Out, want)
	}
	return nil
}

// sameKey returns why material is not the specimen, whose padding after PKCS#8 may differ.
func (x *specimen) sameKey(material []byte) error {
	if x.public == nil {
		if !bytes.Equal(bytes.TrimRight(material, "\x00"), bytes.TrimRight(x.material, "\x00")) || len(material) < len(x.material) {
			return errors.New("it is another secret")
		}
		return nil
	}
	k, err := x509.ParsePKCS8PrivateKey(withoutZeros(material))
	if err != nil {
		return err
	}
	if !x.public.(interface{ Equal(crypto.PublicKey) bool }).Equal(k.(crypto.Signer).Public()) {
		return errors.New("it is another private key")
	}
	return nil
}

// withoutZeros is the DER value at the start of b when only zeros follow it, else b.
func withoutZeros(b []byte) []byte {
	if len(b) < 4 || b[0] != 0x30 {
		return b
	}
	n := 2 + int(b[1])
	switch b[1] {
	case 0x81:
		n = 3 + int(b[2])
	case 0x82:
		n = 4 + int(b[2])<<8 + int(b[3])
	}
	if n > len(b) || len(bytes.Trim(b[n:], "\x00")) != 0 {
		return b
	}
	return b[:n]
}

// mac is what a MAC mechanism computes.
func mac(m hsm.MechanismType, key, msg []byte) []byte {
	hash := map[hsm.MechanismType]crypto.Hash{hsm.SHA256HMAC: crypto.SHA256, hsm.SHA384HMAC: crypto.SHA384, hsm.SHA512HMAC: crypto.SHA512}[m]
	if hash == 0 {
		return cmac(key, msg)
	}
	h := hmac.New(hash.New, key)
	h.Write(msg)
	return h.Sum(nil)
}

// verify checks a signature with Go's cryptography alone, and that hsm.Verify agrees.
func verify(pub crypto.PublicKey, m hsm.Mechanism, in, sig []byte) error {
	err := errors.New("the signature does not verify")
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if m.Type == hsm.RSAPKCS {
			err = rsa.VerifyPKCS1v15(k, m.Hash.Crypto(), in, sig)
		} else {
			err = rsa.VerifyPSS(k, m.Hash.Crypto(), in, sig, &rsa.PSSOptions{SaltLength: m.Hash.Size()})
		}
	case *ecdsa.PublicKey:
		n := (k.Curve.Params().BitSize + 7) / 8
		if len(sig) == 2*n && ecdsa.Verify(k, in, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
			err = nil
		}
	case ed25519.PublicKey:
		if ed25519.Verify(k, in, sig) {
			err = nil
		}
	}
	if other := hsm.Verify(pub, m, in, sig); (err == nil) != (other == nil) {
		return fmt.Errorf("hsm.Verify and Go disagree: %w", errors.Join(other, err))
	}
	return err
}
