//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	"keyway/hsm"
)

// Public returns the SubjectPublicKeyInfo of the pair whose private object is h: the one remembered
// from Generate, or that of the public object with the same CKA_ID.
func (s *Session) Public(h hsm.Handle) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if p, made := s.public[h]; made {
		return bytes.Clone(p), nil
	}
	c, err := s.number(h, attrClass)
	if err != nil {
		return nil, err
	}
	if hsm.Class(c) == hsm.ClassPublic {
		return s.readPublic(h)
	}
	id, err := s.attribute(h, attrID)
	if err != nil {
		return nil, err
	}
	if len(id) == 0 || hsm.Class(c) != hsm.ClassPrivate {
		return nil, hsm.ErrNotFound
	}
	p, err := s.find(hsm.ClassPublic, id)
	if err != nil {
		return nil, err
	}
	return s.readPublic(p)
}

// number reads an attribute that is a CK_ULONG.
func (s *Session) number(h hsm.Handle, a attribute) (uint64, error) {
	var b [8]byte
	r := s.t.lib.attribute(s.h, h, a, b[:])
	if r.fits(b[:]) && r.n != len(b) {
		r.code = hsm.DeviceError
	}
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnGetAttribute)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// readPublic makes the SubjectPublicKeyInfo of a public object from its attributes.
func (s *Session) readPublic(h hsm.Handle) ([]byte, error) {
	kt, err := s.number(h, attrKeyType)
	if err != nil {
		return nil, err
	}
	if kt == keyTypes[hsm.KeyRSA] {
		n, err := s.attribute(h, attrModulus)
		if err != nil {
			return nil, err
		}
		e, err := s.attribute(h, attrPublicExponent)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())})
	}
	params, err := s.attribute(h, attrECParams)
	if err != nil {
		return nil, err
	}
	point, err := s.attribute(h, attrECPoint)
	if err != nil {
		return nil, err
	}
	// The standard wants the point in an OCTET STRING; not every token does so.
	var inner []byte
	if rest, err := asn1.Unmarshal(point, &inner); err == nil && len(rest) == 0 {
		point = inner
	}
	if kt == keyTypes[hsm.KeyEd25519] {
		if len(point) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: the public object holds no Ed25519 point", hsm.ErrUnsupported)
		}
		return x509.MarshalPKIXPublicKey(ed25519.PublicKey(point))
	}
	for _, c := range curves {
		if bytes.Equal(c.oid, params) {
			k, err := ecdsa.ParseUncompressedPublicKey(c.go_, point)
			if err != nil {
				return nil, fmt.Errorf("%w: the public object holds no point of P-%d", hsm.ErrUnsupported, c.bits)
			}
			return x509.MarshalPKIXPublicKey(k)
		}
	}
	return nil, fmt.Errorf("%w: the public object is on a curve Keyway does not know", hsm.ErrUnsupported)
}
