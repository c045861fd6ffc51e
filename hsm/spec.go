package hsm

import (
	"fmt"

	"keyway/lifecycle/key"
)

// KeyType is what kind of key an object is (CKA_KEY_TYPE, with Ed25519 apart).
type KeyType uint8

// The key types.
const (
	KeyAES KeyType = iota + 1
	KeyGeneric
	KeyRSA
	KeyEC
	KeyEd25519
)

// Permission is a set of CKA_SIGN, CKA_ENCRYPT, … attributes.
type Permission uint8

// The permissions. A secret or private object gets exactly those of its Spec.
const (
	MaySign Permission = 1 << iota
	MayVerify
	MayEncrypt
	MayDecrypt
	MayWrap
	MayUnwrap
)

// Spec is the template of an object. Every object is sensitive and, unless
// Extractable, never leaves the token.
type Spec struct {
	// Class is ClassPublic for a public key; otherwise it follows from Type and may be left 0.
	Class Class
	Type  KeyType
	// Bits: AES and generic secrets, the key's length; RSA, the modulus; EC, 256, 384 or 521; Ed25519, 256 or 0.
	Bits int
	// ID is CKA_ID. Label is CKA_LABEL, for people.
	ID    []byte
	Label string
	// Token makes a token object, which outlives the session.
	Token       bool
	Extractable bool
	May         Permission
}

// ObjectClass returns the class of the object the Spec describes: the secret or private half unless ClassPublic is set.
func (s Spec) ObjectClass() Class {
	if s.Class != 0 {
		return s.Class
	}
	if s.Type == KeyAES || s.Type == KeyGeneric {
		return ClassSecret
	}
	return ClassPrivate
}

// Check returns an [ErrInput] that says why s describes no key, nil when it does.
func (s Spec) Check() error {
	good := false
	switch s.Type {
	case KeyAES:
		good = s.Bits == 128 || s.Bits == 192 || s.Bits == 256
	case KeyGeneric:
		good = s.Bits >= 64 && s.Bits <= 8192 && s.Bits%8 == 0
	case KeyRSA:
		good = s.Bits >= 1024 && s.Bits <= 8192
	case KeyEC:
		good = s.Bits == 256 || s.Bits == 384 || s.Bits == 521
	case KeyEd25519:
		good = s.Bits == 256 || s.Bits == 0
	default:
		return fmt.Errorf("%w: no such key type: %d", ErrInput, s.Type)
	}
	if !good {
		return fmt.Errorf("%w: no such key: %d bits", ErrInput, s.Bits)
	}
	secret := s.Type == KeyAES || s.Type == KeyGeneric
	if c := s.ObjectClass(); secret != (c == ClassSecret) || c != ClassSecret && c != ClassPrivate && c != ClassPublic {
		return fmt.Errorf("%w: a key of this type is no object of class %d", ErrInput, c)
	}
	return nil
}

// SpecFor returns the template of a working key of algorithm a with the usages u, as a session
// object that is not extractable, with neither ID nor label.
func SpecFor(a key.Algorithm, u key.Usage) (Spec, error) {
	row, err := a.Info()
	if err != nil {
		return Spec{}, err
	}
	s := Spec{Bits: row.Bits}
	switch row.Family {
	case key.FamilyAES:
		// The token encrypts and wraps for the API's wrap calls of either format.
		s.Type = KeyAES
		if u&(key.Encrypt|key.Wrap) != 0 {
			s.May |= MayEncrypt | MayWrap
		}
		if u&(key.Decrypt|key.Unwrap) != 0 {
			s.May |= MayDecrypt | MayUnwrap
		}
	case key.FamilyHMAC:
		// A MAC is verified by computing it again.
		s.Type, s.May = KeyGeneric, MaySign
	case key.FamilyRSA:
		s.Type = KeyRSA
		if u&key.Sign != 0 {
			s.May |= MaySign
		}
		if u&(key.Decrypt|key.Unwrap) != 0 {
			s.May |= MayDecrypt
		}
	case key.FamilyEC:
		s.Type, s.May = KeyEC, MaySign
	case key.FamilyEd25519:
		s.Type, s.May = KeyEd25519, MaySign
	default:
		return Spec{}, fmt.Errorf("algorithm %s has no template", a)
	}
	return s, nil
}
