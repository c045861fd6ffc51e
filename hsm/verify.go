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
// make it over the same in. It returns nil, [ErrSignature], or another error
// when the key does not fit the mechanism.
func Verify(pub crypto.PublicKey, m Mechanism, in, sig []byte) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return verifyRSA(k, m, in, sig)
	case *ecdsa.PublicKey:
		if m.Type != ECDSA {
			break
		}
		n := (k.Params().N.BitLen() + 7) / 8
		if len(sig) != 2*n || !ecdsa.Verify(k, in, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])) {
			return ErrSignature
		}
		return nil
	case ed25519.PublicKey:
		if m.Type != EDDSA {
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
	h := m.Hash.Crypto()
	if h == 0 || len(in) != h.Size() {
		return fmt.Errorf("%w: the digest's length does not go with the hash", ErrInput)
	}
	var err error
	switch m.Type {
	case RSAPKCS:
		err = rsa.VerifyPKCS1v15(k, h, in, sig)
	case RSAPKCSPSS:
		err = rsa.VerifyPSS(k, h, in, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: h})
	default:
		return fmt.Errorf("%w: %s is no signature mechanism of RSA keys", ErrInput, m.Type)
	}
	if errors.Is(err, rsa.ErrVerification) {
		return ErrSignature
	}
	return err
}
