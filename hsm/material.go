package hsm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
)

// ParsePrivate reads the private key of s from PKCS#8, which zeros may follow, since private keys travel padded. What
// is no such key is an [ErrInput], whose text quotes nothing. Its numbers pass through Go's big integers, copies of
// which cannot be wiped.
func ParsePrivate(s Spec, der []byte) (crypto.Signer, error) {
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
	k, err := x509.ParsePKCS8PrivateKey(v.FullBytes)
	if err != nil {
		return nil, refused("the private key is no PKCS#8") // the parser's words could quote the key
	}
	signer, ok := k.(crypto.Signer)
	if r, isRSA := k.(*rsa.PrivateKey); !ok || !s.describes(signer.Public()) || isRSA && len(r.Primes) != 2 {
		return nil, refused("the private key is not of the type and size asked for")
	}
	return signer, nil
}

// ParsePublic reads the public key of s from a SubjectPublicKeyInfo.
func ParsePublic(s Spec, der []byte) (crypto.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(bytes.Clone(der)) // an Ed25519 key would be a slice of der
	if err != nil {
		return nil, refused("the public key is no SubjectPublicKeyInfo")
	}
	if !s.describes(k) {
		return nil, refused("the public key is not of the type and size asked for")
	}
	return k, nil
}

// describes reports whether a key is of the type and size of s.
func (s Spec) describes(pub crypto.PublicKey) bool {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return s.Type == KeyRSA && k.N.BitLen() == s.Bits
	case *ecdsa.PublicKey:
		return s.Type == KeyEC && k.Curve.Params().BitSize == s.Bits
	case ed25519.PublicKey:
		return s.Type == KeyEd25519
	}
	return false
}
