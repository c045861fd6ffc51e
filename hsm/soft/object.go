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
	"sync"

	"keyway/hsm"
)

// object is a key. What it holds is set at birth and changes only when it is wiped.
type object struct {
	spec  hsm.Spec
	owner *session

	mu     sync.RWMutex // held for reading by who uses the key, for writing by who wipes it
	gone   bool
	secret []byte // AES and generic secrets
	block  cipher.Block
	gcm    cipher.AEAD
	signer crypto.Signer    // private keys
	public crypto.PublicKey // public keys
}

// wipe ends the key, when nobody uses it any more: a MAC computed while the key turns to zeros would be a wrong one.
func (o *object) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	clear(o.secret)
}

var curves = map[int]elliptic.Curve{256: elliptic.P256(), 384: elliptic.P384(), 521: elliptic.P521()}

// build makes the object of s from clear material, which it copies.
func build(s hsm.Spec, material []byte) (*object, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	s.ID = append([]byte(nil), s.ID...)
	o := &object{spec: s}
	var err error
	switch s.ObjectClass() {
	case hsm.ClassPrivate:
		o.signer, err = hsm.ParsePrivate(s, material)
		return o, err
	case hsm.ClassPublic:
		o.public, err = hsm.ParsePublic(s, material)
		return o, err
	}
	if len(material)*8 != s.Bits {
		return nil, input("%d bytes are no key of %d bits", len(material), s.Bits)
	}
	o.secret = append([]byte(nil), material...)
	if s.Type == hsm.KeyAES {
		if o.block, err = aes.NewCipher(o.secret); err == nil {
			o.gcm, err = cipher.NewGCM(o.block)
		}
	}
	return o, err
}

// material is what a key is outside: raw bytes, PKCS#8 or SubjectPublicKeyInfo.
func (o *object) material() ([]byte, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	switch {
	case o.gone:
		return nil, fault(hsm.ObjectHandleInvalid, hsm.FnGetAttribute)
	case o.secret != nil:
		return append([]byte(nil), o.secret...), nil
	case o.signer != nil:
		return x509.MarshalPKCS8PrivateKey(o.signer)
	}
	return x509.MarshalPKIXPublicKey(o.public)
}

// Generate makes a key or a pair.
func (s *session) Generate(spec hsm.Spec) (hsm.Handle, error) {
	if err := spec.Check(); err != nil {
		return 0, err
	}
	if spec.ObjectClass() == hsm.ClassPublic {
		return 0, input("a public key cannot be generated alone")
	}
	if err := s.open(); err != nil {
		return 0, err
	}
	o := &object{spec: spec}
	var err error
	switch spec.Type {
	case hsm.KeyRSA:
		o.signer, err = rsa.GenerateKey(rand.Reader, spec.Bits)
	case hsm.KeyEC:
		o.signer, err = ecdsa.GenerateKey(curves[spec.Bits], rand.Reader)
	case hsm.KeyEd25519:
		_, o.signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		b := make([]byte, spec.Bits/8)
		_, _ = rand.Read(b) // never fails (crypto/rand documents it)
		o, err = build(spec, b)
		clear(b)
	}
	if err != nil {
		return 0, err
	}
	o.spec.ID = append([]byte(nil), spec.ID...)
	if spec.Token && o.signer != nil {
		pub := o.spec
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
	o, err := build(spec, material)
	if err != nil {
		return 0, err
	}
	return s.add(o)
}

// WrapKey wraps a key that is extractable.
func (s *session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := hsm.CheckWrapKey(m); err != nil {
		return nil, err
	}
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
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.gone {
		return nil, fault(hsm.WrappingHandleInvalid, hsm.FnWrap)
	}
	return k.wrap(nil, m, b)
}

// UnwrapKey makes an object from a blob.
func (s *session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	if err := hsm.CheckUnwrapKey(m, blob, spec); err != nil {
		return 0, err
	}
	k, err := s.object(kek, hsm.FnUnwrap)
	if err != nil {
		return 0, err
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.gone {
		return 0, fault(hsm.UnwrappingHandleInvalid, hsm.FnUnwrap)
	}
	b, err := k.unwrap(nil, m, blob)
	if err != nil {
		return 0, err
	}
	defer clear(b)
	if n := spec.Bits / 8; spec.ObjectClass() == hsm.ClassSecret && len(b) > n && len(b) < n+8 {
		b = b[:n] // what RFC 3394 padded it to
	}
	o, err := build(spec, b)
	if err != nil {
		return 0, err
	}
	return s.add(o)
}
