package audit

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Algorithm bytes of note keys, as C2SP signed-note assigns them.
const (
	algEd25519     = 0x01
	algECDSA       = 0x02 // ECDSA over SHA-256; the key is a SubjectPublicKeyInfo and its number the SHA-256 of that alone
	algCosignature = 0x04 // Ed25519 over a checkpoint with a time
)

// verifier is a note.Verifier of an algorithm that package note does not know.
type verifier struct {
	name   string
	hash   uint32
	alg    byte
	verify func(msg, sig []byte) bool
}

func (v *verifier) Name() string                { return v.name }
func (v *verifier) KeyHash() uint32             { return v.hash }
func (v *verifier) Verify(msg, sig []byte) bool { return v.verify(msg, sig) }

// signer is the signer that belongs to a verifier.
type signer struct {
	*verifier
	sign func(msg []byte) ([]byte, error)
}

// Sign signs and verifies what was signed: a token that fails must not put a signature into the log that nobody can check.
func (s *signer) Sign(msg []byte) ([]byte, error) {
	sig, err := s.sign(msg)
	if err != nil {
		return nil, fmt.Errorf("audit: signing as %s: %w", s.name, err)
	}
	if !s.Verify(msg, sig) {
		return nil, fmt.Errorf("audit: signing as %s: the signature that came back does not belong to the public key %08x", s.name, s.hash)
	}
	return sig, nil
}

// NewCustodySigner returns a signer whose private key is elsewhere, in a token. sign must return the ECDSA signature of the
// SHA-256 of msg as r ‖ s, 32 bytes each, as PKCS#11 tokens give it; it may block for as long as its caller allows.
// The signature in the note is in ASN.1, as other readers of notes expect.
func NewCustodySigner(name string, public *ecdsa.PublicKey, sign func(msg []byte) (sig []byte, err error)) (note.Signer, error) {
	vkey, err := ECDSAVerifierKey(name, public)
	if err != nil {
		return nil, err
	}
	v, err := newVerifier(vkey)
	if err != nil {
		return nil, err
	}
	return &signer{v, func(msg []byte) ([]byte, error) {
		raw, err := sign(msg)
		if err != nil {
			return nil, err
		}
		if len(raw) != 64 {
			return nil, fmt.Errorf("a signature of %d bytes came back: want r and s of 32 bytes each", len(raw))
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
	}}, nil
}

// ECDSAVerifierKey returns a P-256 public key as verifiers write it: name+hash+key.
func ECDSAVerifierKey(name string, public *ecdsa.PublicKey) (string, error) {
	if public == nil || public.Curve != elliptic.P256() {
		return "", fmt.Errorf("audit: the key of signer %s is not on P-256", name)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("audit: the key of signer %s: %w", name, err)
	}
	return verifierKey(name, algECDSA, der), nil
}

func verifierKey(name string, alg byte, public []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, alg, public), base64.StdEncoding.EncodeToString(append([]byte{alg}, public...)))
}

// keyHash returns the number of a key in notes.
func keyHash(name string, alg byte, public []byte) uint32 {
	h := sha256.New()
	if alg != algECDSA {
		h.Write([]byte(name + "\n"))
		h.Write([]byte{alg})
	}
	h.Write(public)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// NewVerifier reads a verifier key (name+hash+key) of any algorithm this package knows: Ed25519, ECDSA on P-256, and
// Ed25519 cosignatures. The error says what is wrong with it.
func NewVerifier(vkey string) (note.Verifier, error) {
	v, err := newVerifier(vkey)
	if err != nil {
		return nil, err
	}
	return v, nil
}

func newVerifier(vkey string) (*verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	number, key64, ok := strings.Cut(rest, "+")
	bad := func(format string, a ...any) (*verifier, error) {
		return nil, fmt.Errorf("audit: verifier key %.80q: %s", vkey, fmt.Sprintf(format, a...))
	}
	if !ok {
		return bad("want name+hash+key")
	}
	if err := matches(principalRE, "name", name); err != nil {
		return bad("%v", err)
	}
	hash, err := strconv.ParseUint(number, 16, 32)
	if err != nil || len(number) != 8 {
		return bad("the hash is not 8 hexadecimal digits")
	}
	raw, err := base64.StdEncoding.DecodeString(key64)
	if err != nil || len(raw) < 2 {
		return bad("the key is not Base64")
	}
	v := &verifier{name: name, hash: uint32(hash), alg: raw[0]}
	public := raw[1:]
	if keyHash(name, v.alg, public) != v.hash {
		return bad("name, hash and key do not belong together: it was mistyped or changed")
	}
	switch v.alg {
	case algEd25519, algCosignature:
		if len(public) != ed25519.PublicKeySize {
			return bad("an Ed25519 key of %d bytes", len(public))
		}
		v.verify = func(msg, sig []byte) bool { return ed25519.Verify(public, msg, sig) }
		if v.alg == algCosignature {
			v.verify = func(msg, sig []byte) bool { return verifyCosignature(public, msg, sig) }
		}
	case algECDSA:
		pub, err := x509.ParsePKIXPublicKey(public)
		ec, isEC := pub.(*ecdsa.PublicKey)
		if err != nil || !isEC || ec.Curve != elliptic.P256() {
			return bad("the key is not an ECDSA key on P-256")
		}
		v.verify = func(msg, sig []byte) bool {
			digest := sha256.Sum256(msg)
			return ecdsa.VerifyASN1(ec, digest[:], sig)
		}
	default:
		return bad("algorithm %#02x is not known here", v.alg)
	}
	return v, nil
}

// ParseVerifiers reads verifier keys, one on a line; empty lines and those that begin with # are left out.
func ParseVerifiers(text string) ([]note.Verifier, error) {
	var out []note.Verifier
	var errs []error
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		v, err := NewVerifier(line)
		errs = append(errs, err)
		out = append(out, v)
	}
	return out, errors.Join(errs...)
}
