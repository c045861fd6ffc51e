//go:build cgo

package pkcs11

import (
	"bytes"

	"keyway/hsm"
)

// ed25519PKCS8 is what precedes the seed in the PKCS#8 of an Ed25519 key (RFC 8410, 7). With
// the seed it has 48 bytes, so it needs no padding.
var ed25519PKCS8 = []byte{0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20}

// wrapClear wraps an Ed25519 key that the token knows but cannot wrap; see [Profile].ClearWrap.
func (s *Session) wrapClear(kek hsm.Handle, m hsm.MechanismType, key hsm.Handle) ([]byte, error) {
	kt, err := s.number(key, attrKeyType)
	if err != nil {
		return nil, err
	}
	if kt != keyTypes[hsm.KeyEd25519] {
		return nil, s.failed(hsm.KeyNotWrappable, hsm.FnWrap)
	}
	der := bytes.Clone(ed25519PKCS8)
	der = append(der, make([]byte, 32)...)
	defer clear(der)
	if r := s.t.lib.attribute(s.h, key, attrValue, der[len(ed25519PKCS8):]); r.code != hsm.OK {
		return nil, s.failed(r.code, hsm.FnGetAttribute)
	}
	op := hsm.Op{Mech: hsm.Mechanism{Type: m}, Key: kek, In: der}
	if err := s.wrapBytes(&op); err != nil {
		return nil, err
	}
	return op.Out, nil
}

// unwrapClear is the inverse of wrapClear, and serves for every private key whose blob must be opened here.
func (s *Session) unwrapClear(kek hsm.Handle, m hsm.MechanismType, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	op := hsm.Op{Mech: hsm.Mechanism{Type: m}, Key: kek, In: blob}
	if err := s.unwrapBytes(&op); err != nil {
		return 0, err
	}
	defer clear(op.Out)
	t := s.t.profile.template(spec)
	defer t.wipe()
	if err := putPrivate(t, &s.t.profile, spec, op.Out); err != nil {
		return 0, err
	}
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.create(s.h, t)
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnUnwrap)
	}
	return r.handle, nil
}

// wrapPadded wraps a private key under kek after RFC 3394, padded with zeros; see [Profile].WrapWholeOnly.
func (s *Session) wrapPadded(kek, key hsm.Handle) ([]byte, error) {
	der, err := s.clearPrivate(key)
	if err != nil {
		return nil, err
	}
	defer clear(der[:cap(der)])
	for len(der)%8 != 0 { // there is room: what it was unwrapped from was longer
		der = append(der, 0)
	}
	op := hsm.Op{Mech: hsm.Mechanism{Type: hsm.AESKeyWrap}, Key: kek, In: der}
	if err := s.wrapBytes(&op); err != nil {
		return nil, err
	}
	return op.Out, nil
}

// clearPrivate has the token wrap a private key under one that lives for this call alone, and open it again as bytes: its
// PKCS#8. The caller wipes it.
func (s *Session) clearPrivate(key hsm.Handle) ([]byte, error) {
	t := s.t.profile.template(hsm.Spec{Type: hsm.KeyAES, May: hsm.MayWrap | hsm.MayDecrypt})
	t.number(attrValueLen, 32)
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	once := s.t.lib.generate(s.h, hsm.AESKeyGen, t)
	if once.code != hsm.OK {
		return nil, s.failed(once.code, hsm.FnWrap)
	}
	defer s.t.lib.destroy(s.h, once.handle)
	blob := make([]byte, mostWrapped)
	m := hsm.Mechanism{Type: hsm.AESKeyWrapKWP}
	r := s.t.lib.wrap(s.h, once.handle, m, key, blob)
	if !r.fits(blob) {
		return nil, s.failed(r.code, hsm.FnWrap)
	}
	blob = blob[:r.n]
	return s.call(hsm.FnWrap, once.handle, operation{kind: decrypt, mechanism: m.Type}, nil, nil, blob, make([]byte, len(blob)), 0)
}
