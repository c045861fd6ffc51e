//go:build cgo

package pkcs11

import (
	"fmt"

	"keyway/hsm"
)

// Generate makes a key, or a pair. The public half of a session pair is read, remembered and destroyed.
func (s *Session) Generate(spec hsm.Spec) (hsm.Handle, error) {
	m, err := generation(spec)
	if err != nil {
		return 0, err
	}
	if err := s.usable(m); err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	if s.t.profile.SerialGenerate {
		s.t.generating.Lock()
		defer s.t.generating.Unlock()
	}
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	t := s.t.profile.template(spec)
	if spec.ObjectClass() == hsm.ClassSecret {
		t.number(attrValueLen, uint64(spec.Bits/8))
		r := s.t.lib.generate(s.h, m, t)
		if r.code != hsm.OK {
			return 0, s.failed(r.code, hsm.FnGenerate)
		}
		return r.handle, nil
	}
	pub := s.t.profile.template(publicHalf(spec))
	if spec.Type == hsm.KeyRSA {
		pub.number(attrModulusBits, uint64(spec.Bits))
		pub.bytes(attrPublicExponent, []byte{1, 0, 1})
	} else {
		pub.bytes(attrECParams, curveOf(spec).oid)
	}
	r := s.t.lib.generatePair(s.h, m, pub, t)
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnGenerate)
	}
	spki, err := s.readPublic(r.other)
	if err == nil && !spec.Token {
		if d := s.t.lib.destroy(s.h, r.other); d.code != hsm.OK {
			err = s.failed(d.code, hsm.FnDestroy)
		}
	}
	if err != nil {
		// Half a pair is of no use to anybody.
		_ = s.t.lib.destroy(s.h, r.handle)
		_ = s.t.lib.destroy(s.h, r.other)
		return 0, fmt.Errorf("reading the public half of a new pair: %w", err)
	}
	s.public[r.handle] = spki
	return r.handle, nil
}

// generation returns the mechanism that makes a key after spec.
func generation(spec hsm.Spec) (hsm.MechanismType, error) {
	if err := spec.Check(); err != nil {
		return 0, err
	}
	if spec.ObjectClass() == hsm.ClassPublic {
		return 0, refused("a public key cannot be generated alone")
	}
	switch spec.Type {
	case hsm.KeyAES:
		return hsm.AESKeyGen, nil
	case hsm.KeyGeneric:
		return hsm.GenericSecretGen, nil
	case hsm.KeyRSA:
		return hsm.RSAPKCSKeyPairGen, nil
	case hsm.KeyEC:
		return hsm.ECKeyPairGen, nil
	}
	return hsm.ECEdwardsKeyPair, nil
}

// Import makes an object from clear material. What this package copied of it is wiped.
func (s *Session) Import(spec hsm.Spec, material []byte) (hsm.Handle, error) {
	if err := spec.Check(); err != nil {
		return 0, err
	}
	t := s.t.profile.template(spec)
	defer t.wipe()
	var err error
	switch spec.ObjectClass() {
	case hsm.ClassSecret:
		if len(material) != spec.Bits/8 {
			return 0, refused("%d bytes are no key of %d bits", len(material), spec.Bits)
		}
		t.bytes(attrValue, material)
	case hsm.ClassPrivate:
		err = putPrivate(t, &s.t.profile, spec, material)
	case hsm.ClassPublic:
		err = putPublic(t, spec, material)
	}
	if err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.create(s.h, t)
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnCreate)
	}
	return r.handle, nil
}

// Destroy destroys an object, and with the private object of a pair on the token its public half.
func (s *Session) Destroy(h hsm.Handle) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	// The public half must be found before what names it is gone.
	other, err := s.publicOnToken(h)
	if err != nil {
		return err
	}
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	if r := s.t.lib.destroy(s.h, h); r.code != hsm.OK {
		return s.failed(r.code, hsm.FnDestroy)
	}
	delete(s.public, h)
	if other != 0 {
		if r := s.t.lib.destroy(s.h, other); r.code != hsm.OK {
			return s.failed(r.code, hsm.FnDestroy)
		}
	}
	return nil
}

// publicOnToken returns the public object that belongs to h, 0 when h is no private object on the token or has none.
func (s *Session) publicOnToken(h hsm.Handle) (hsm.Handle, error) {
	var b [8]byte
	if r := s.t.lib.attribute(s.h, h, attrToken, b[:1]); r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnGetAttribute)
	} else if b[0] == 0 {
		return 0, nil
	}
	if c, err := s.number(h, attrClass); err != nil || hsm.Class(c) != hsm.ClassPrivate {
		return 0, err
	}
	id, err := s.attribute(h, attrID)
	if err != nil || len(id) == 0 {
		return 0, err
	}
	p, err := s.find(hsm.ClassPublic, id)
	if err != nil && hsm.FaultOf(err) == hsm.Object {
		return 0, nil
	}
	return p, err
}

// Find returns the one object of a class with a CKA_ID.
func (s *Session) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	if len(id) == 0 {
		return 0, refused("an object without CKA_ID cannot be found")
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	return s.find(c, id)
}

func (s *Session) find(c hsm.Class, id []byte) (hsm.Handle, error) {
	t := &template{packed: make([]byte, 0, 128)}
	t.number(attrClass, uint64(c))
	t.bytes(attrID, id)
	if s.t.profile.FindAlone {
		s.t.objects.Lock()
		defer s.t.objects.Unlock()
	}
	r := s.t.lib.find(s.h, t)
	switch {
	case r.code != hsm.OK:
		return 0, s.failed(r.code, hsm.FnFind)
	case r.n == 0:
		return 0, hsm.ErrNotFound
	case r.n > 1:
		return 0, hsm.ErrAmbiguous
	}
	return r.handle, nil
}

// attribute reads an attribute that is no secret.
func (s *Session) attribute(h hsm.Handle, a attribute) ([]byte, error) {
	b := make([]byte, 1024)
	r := s.t.lib.attribute(s.h, h, a, b)
	if !r.fits(b) {
		return nil, s.failed(r.code, hsm.FnGetAttribute)
	}
	return b[:r.n], nil
}
