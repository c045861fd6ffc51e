package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// ErrSignature: the signature does not belong to the message and key. A Caller fault.
var ErrSignature = fmt.Errorf("%w: signature does not verify", ErrInput)

// Verify checks, without a token, a signature as OpSign with mechanism m would
// make it over the same in. It returns nil, [ErrSignature], or another [ErrInput]
// when key, mechanism and input do not go together.
func Verify(pub crypto.PublicKey, m Mechanism, in, sig []byte) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return verifyRSA(k, m, in, sig)
	case *ecdsa.PublicKey:
		if m.Type != ECDSA {
			break
		}
		if len(in) == 0 {
			return fmt.Errorf("%w: there is no digest", ErrInput)
		}
		n := (k.Params().N.BitLen() + 7) / 8
		if len(sig) != 2*n || !ecdsa.Verify(k, in, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
			return ErrSignature
		}
		return nil
	case ed25519.PublicKey:
		if m.Type != EDDSA || len(k) != ed25519.PublicKeySize { // Go panics on another length
			break
		}
		if !ed25519.Verify(k, in, sig) {
			return ErrSignature
		}
		return nil
	}
	return fmt.Errorf("%w: %s does not go with a key of type %T", ErrInput, m.Type, pub)
}

func verifyRSA(k *rsa.PublicKey, m Mechanism, in, sig []byte) error {
	if err := CheckDigest(m.Hash, in); err != nil {
		return err
	}
	h := m.Hash.Crypto()
	var err error
	switch m.Type {
	case RSAPKCS:
		err = rsa.VerifyPKCS1v15(k, h, in, sig)
	case RSAPKCSPSS:
		err = rsa.VerifyPSS(k, h, in, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h})
	default:
		return fmt.Errorf("%w: %s is no signature mechanism of RSA keys", ErrInput, m.Type)
	}
	switch {
	case errors.Is(err, rsa.ErrVerification):
		return ErrSignature
	case err != nil: // a key that Go holds to be insecure
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	return nil
}

// CheckDigest returns an [ErrInput] unless d may be signed by RSA as a digest of h: SHA-1 may not.
func CheckDigest(h Hash, d []byte) error {
	if h == SHA1 {
		return fmt.Errorf("%w: nothing is signed over %s any more: use sha2-256, sha2-384 or sha2-512", ErrInput, h)
	}
	if h.Size() == 0 || len(d) != h.Size() {
		return fmt.Errorf("%w: a digest of %d bytes is none of %q", ErrInput, len(d), h)
	}
	return nil
}
