package pkcs11

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"math/big"

	"keyway/hsm"
)

// curve is a curve by its bits.
type curve struct {
	bits int
	oid  []byte // DER of the OBJECT IDENTIFIER, as CKA_EC_PARAMS has it
	go_  elliptic.Curve
}

var curves = []curve{
	{256, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}, elliptic.P256()},
	{384, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}, elliptic.P384()},
	{521, []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}, elliptic.P521()},
}

var edwards25519 = curve{256, []byte{0x06, 0x03, 0x2b, 0x65, 0x70}, nil}

// curveOf returns the curve of a Spec, nil when there is none of its size.
func curveOf(s hsm.Spec) *curve {
	if s.Type == hsm.KeyEd25519 {
		return &edwards25519
	}
	for i := range curves {
		if curves[i].bits == s.Bits {
			return &curves[i]
		}
	}
	return nil
}

// putPrivate adds the private key in PKCS#8 der to t. Its numbers pass through Go's big
// integers, copies of which cannot be wiped.
func putPrivate(t *template, p *Profile, s hsm.Spec, der []byte) error {
	k, err := hsm.ParsePrivate(s, der)
	if err != nil {
		return err
	}
	switch k := k.(type) {
	case *rsa.PrivateKey:
		k.Precompute()
		t.bytes(attrModulus, k.N.Bytes())
		t.bytes(attrPublicExponent, big.NewInt(int64(k.E)).Bytes())
		for _, v := range []struct {
			a attribute
			n *big.Int
		}{
			{attrPrivateExponent, k.D}, {attrPrime1, k.Primes[0]}, {attrPrime2, k.Primes[1]},
			{attrExponent1, k.Precomputed.Dp}, {attrExponent2, k.Precomputed.Dq}, {attrCoefficient, k.Precomputed.Qinv},
		} {
			b := v.n.Bytes()
			t.bytes(v.a, b)
			clear(b)
		}
	case *ecdsa.PrivateKey:
		d, err := k.Bytes()
		if err != nil {
			return refused("the private key is no key of its curve")
		}
		t.bytes(attrECParams, curveOf(s).oid)
		t.bytes(attrValue, d)
		clear(d)
		if p.ECNeedsPoint {
			point, err := k.PublicKey.Bytes()
			if err != nil {
				return refused("the private key is no key of its curve")
			}
			t.bytes(attrNSSDB, point)
		}
	case ed25519.PrivateKey:
		seed := k.Seed()
		t.bytes(attrECParams, edwards25519.oid)
		t.bytes(attrValue, seed)
		clear(seed)
	}
	return nil
}

// putPublic adds the public key in the SubjectPublicKeyInfo der to t.
func putPublic(t *template, s hsm.Spec, der []byte) error {
	k, err := hsm.ParsePublic(s, der)
	if err != nil {
		return err
	}
	var params, point []byte
	switch k := k.(type) {
	case *rsa.PublicKey:
		t.bytes(attrModulus, k.N.Bytes())
		t.bytes(attrPublicExponent, big.NewInt(int64(k.E)).Bytes())
		return nil
	case *ecdsa.PublicKey:
		params = curveOf(s).oid
		if point, err = k.Bytes(); err != nil {
			return refused("the public key is no point of its curve")
		}
	case ed25519.PublicKey:
		params, point = edwards25519.oid, k
	}
	// The standard wants the point in an OCTET STRING.
	if point, err = asn1.Marshal(point); err != nil {
		return refused("the public key's point has no encoding")
	}
	t.bytes(attrECParams, params)
	t.bytes(attrECPoint, point)
	return nil
}
