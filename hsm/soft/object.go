package soft

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"

	"keyway/hsm"
)

// object is a key. Its secret is set at birth and changes only when it is wiped.
type object struct {
	spec   hsm.Spec
	owner  *session
	secret []byte // AES and generic secrets
	block  cipher.Block
	gcm    cipher.AEAD
	signer crypto.Signer    // private keys
	public crypto.PublicKey // public keys
}

func (o *object) wipe() { clear(o.secret) }

var curves = map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}

// newSecret makes a secret key object of clear bytes, which it copies.
func newSecret(s hsm.Spec, b []byte, f hsm.Function) (*object, error) {
	o := &object{spec: s, secret: append([]byte(nil), b...)}
	if s.Bits != 0 && len(b)*8 != s.Bits {
		// An unwrapped key may be shorter than what RFC 3394 padded it to; nothing else may differ.
		if f != hsm.FnUnwrap || len(b)*8 < s.Bits || len(b)*8-s.Bits >= 64 {
			return nil, fault(hsm.WrappedKeyLenRange, f)
		}
		o.secret = o.secret[:s.Bits/8]
	}
	if s.Type != hsm.KeyAES {
		if len(o.secret) == 0 {
			return nil, fault(hsm.KeySizeRange, f)
		}
		return o, nil
	}
	var err error
	if o.block, err = aes.NewCipher(o.secret); err != nil {
		return nil, fault(hsm.KeySizeRange, f)
	}
	o.gcm, err = cipher.NewGCM(o.block)
	return o, err
}

// newPrivate makes a private key object of PKCS#8, which may be followed by zeros.
func newPrivate(s hsm.Spec, der []byte, f hsm.Function) (*object, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, fault(hsm.WrappedKeyInvalid, f)
	}
	for _, b := range rest {
		if b != 0 {
			return nil, fault(hsm.WrappedKeyInvalid, f)
		}
	}
	k, err := x509.ParsePKCS8PrivateKey(outer.FullBytes)
	if err != nil {
		return nil, fault(hsm.WrappedKeyInvalid, f)
	}
	o := &object{spec: s}
	fits := false
	switch k := k.(type) {
	case *rsa.PrivateKey:
		o.signer, fits = k, s.Type == hsm.KeyRSA && (s.Bits == 0 || k.N.BitLen() == s.Bits)
	case *ecdsa.PrivateKey:
		o.signer, fits = k, s.Type == hsm.KeyEC && (s.Bits == 0 || k.Curve == curves[s.Bits])
	case ed25519.PrivateKey:
		o.signer, fits = k, s.Type == hsm.KeyEd25519
	}
	if !fits {
		return nil, fault(hsm.KeyTypeInconsistent, f)
	}
	return o, nil
}

// build makes an object of whatever kind s says.
func build(s hsm.Spec, material []byte, f hsm.Function) (*object, error) {
	s.ID = append([]byte(nil), s.ID...)
	switch s.ObjectClass() {
	case hsm.ClassSecret:
		return newSecret(s, material, f)
	case hsm.ClassPrivate:
		return newPrivate(s, material, f)
	}
	pub, err := x509.ParsePKIXPublicKey(material)
	if err != nil {
		return nil, input("the public key does not parse")
	}
	return &object{spec: s, public: pub}, nil
}

// material is what a key is outside: raw bytes or PKCS#8.
func (o *object) material() ([]byte, error) {
	switch {
	case o.secret != nil:
		return append([]byte(nil), o.secret...), nil
	case o.signer != nil:
		return x509.MarshalPKCS8PrivateKey(o.signer)
	}
	return x509.MarshalPKIXPublicKey(o.public)
}

// Generate makes a key or a pair.
func (s *session) Generate(spec hsm.Spec) (hsm.Handle, error) {
	spec.ID = append([]byte(nil), spec.ID...)
	o := &object{spec: spec}
	var err error
	switch spec.Type {
	case hsm.KeyAES, hsm.KeyGeneric:
		b := make([]byte, spec.Bits/8)
		_, _ = rand.Read(b) // never fails (crypto/rand documents it)
		o, err = newSecret(spec, b, hsm.FnGenerate)
		clear(b)
	case hsm.KeyRSA:
		if spec.Bits < 2048 || spec.Bits > 4096 {
			return 0, fault(hsm.KeySizeRange, hsm.FnGenerate)
		}
		o.signer, err = rsa.GenerateKey(rand.Reader, spec.Bits)
	case hsm.KeyEC:
		c := curves[spec.Bits]
		if c == nil {
			return 0, fault(hsm.CurveNotSupported, hsm.FnGenerate)
		}
		o.signer, err = ecdsa.GenerateKey(c, rand.Reader)
	case hsm.KeyEd25519:
		_, o.signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		return 0, fault(hsm.TemplateInconsistent, hsm.FnGenerate)
	}
	if err != nil {
		return 0, err
	}
	if spec.Token && o.signer != nil {
		pub := spec
		pub.Class, pub.May = hsm.ClassPublic, 0
		if _, err := s.add(&object{spec: pub, public: o.signer.Public()}); err != nil {
			return 0, err
		}
	}
	return s.add(o)
}

// Public returns the public half of a private object, or a public object itself.
func (s *session) Public(h hsm.Handle) ([]byte, error) {
	o, err := s.object(h, hsm.FnGetAttribute)
	if err != nil {
		return nil, err
	}
	switch {
	case o.signer != nil:
		return x509.MarshalPKIXPublicKey(o.signer.Public())
	case o.public != nil:
		return x509.MarshalPKIXPublicKey(o.public)
	}
	return nil, hsm.ErrNotFound
}

// Import makes an object from clear material.
func (s *session) Import(spec hsm.Spec, material []byte) (hsm.Handle, error) {
	o, err := build(spec, material, hsm.FnCreate)
	if err != nil {
		return 0, err
	}
	return s.add(o)
}

// WrapKey wraps a key that is extractable.
func (s *session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	k, err := s.object(kek, hsm.FnWrap)
	if err != nil {
		return nil, err
	}
	o, err := s.object(key, hsm.FnWrap)
	if err != nil {
		return nil, err
	}
	if !o.spec.Extractable {
		return nil, fault(hsm.KeyUnextractable, hsm.FnWrap)
	}
	b, err := o.material()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	if o.signer != nil && m.Type == hsm.AESKeyWrap {
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
	}
	return k.wrap(nil, m, b)
}

// UnwrapKey makes an object from a blob.
func (s *session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	k, err := s.object(kek, hsm.FnUnwrap)
	if err != nil {
		return 0, err
	}
	b, err := k.unwrap(nil, m, blob)
	if err != nil {
		return 0, err
	}
	defer clear(b)
	o, err := build(spec, b, hsm.FnUnwrap)
	if err != nil {
		return 0, err
	}
	return s.add(o)
}
