package pkcs11

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
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

// nssName is a name under which NSS keeps a private EC key. It only needs to be
// unlike others; NSS would take the public point, which a wrapped key does not show.
func nssName(s hsm.Spec) []byte {
	if len(s.ID) > 0 {
		return s.ID
	}
	return []byte("keyway")
}

// whole cuts off what follows the first DER value: private keys travel padded with zeros.
func whole(der []byte) ([]byte, error) {
	var v asn1.RawValue
	rest, err := asn1.Unmarshal(der, &v)
	if err != nil {
		return nil, refused("the private key is not DER")
	}
	for _, b := range rest {
		if b != 0 {
			return nil, refused("something follows the private key")
		}
	}
	return der[:len(der)-len(rest)], nil
}

// putPrivate adds the private key in PKCS#8 der to t. Its numbers pass through Go's big
// integers, copies of which cannot be wiped.
func putPrivate(t *template, p *Profile, s hsm.Spec, der []byte) error {
	der, err := whole(der)
	if err != nil {
		return err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return refused("the private key is no PKCS#8") // the parser's words could quote the key
	}
	switch k := k.(type) {
	case *rsa.PrivateKey:
		if s.Type != hsm.KeyRSA || k.N.BitLen() != s.Bits || len(k.Primes) != 2 {
			return refused("the private key is not of the type and size asked for")
		}
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
		c := curveOf(s)
		if s.Type != hsm.KeyEC || c == nil || k.Curve != c.go_ {
			return refused("the private key is not of the type and size asked for")
		}
		d, err := k.Bytes()
		if err != nil {
			return refused("the private key is no key of its curve")
		}
		t.bytes(attrECParams, c.oid)
		t.bytes(attrValue, d)
		clear(d)
		if p.ECNeedsName {
			t.bytes(attrNSSDB, nssName(s))
		}
	case ed25519.PrivateKey:
		if s.Type != hsm.KeyEd25519 {
			return refused("the private key is not of the type asked for")
		}
		seed := k.Seed()
		t.bytes(attrECParams, edwards25519.oid)
		t.bytes(attrValue, seed)
		clear(seed)
	default:
		return refused("the private key is of a kind Keyway does not know")
	}
	return nil
}

// putPublic adds the public key in the SubjectPublicKeyInfo der to t.
func putPublic(t *template, s hsm.Spec, der []byte) error {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return refused("the public key is no SubjectPublicKeyInfo")
	}
	wrong := refused("the public key is not of the type and size asked for")
	var params, point []byte
	switch k := k.(type) {
	case *rsa.PublicKey:
		if s.Type != hsm.KeyRSA || k.N.BitLen() != s.Bits {
			return wrong
		}
		t.bytes(attrModulus, k.N.Bytes())
		t.bytes(attrPublicExponent, big.NewInt(int64(k.E)).Bytes())
		return nil
	case *ecdsa.PublicKey:
		c := curveOf(s)
		if s.Type != hsm.KeyEC || c == nil || k.Curve != c.go_ {
			return wrong
		}
		params = c.oid
		if point, err = k.Bytes(); err != nil {
			return wrong
		}
	case ed25519.PublicKey:
		if s.Type != hsm.KeyEd25519 {
			return wrong
		}
		params, point = edwards25519.oid, k
	default:
		return refused("the public key is of a kind Keyway does not know")
	}
	// The standard wants the point in an OCTET STRING.
	if point, err = asn1.Marshal(point); err != nil {
		return wrong
	}
	t.bytes(attrECParams, params)
	t.bytes(attrECPoint, point)
	return nil
}
