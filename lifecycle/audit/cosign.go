package audit

import (
	"crypto"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// NewWitnessSigner returns a signer that adds the time to its signature (C2SP tlog-cosignature, cosignature/v1). Its
// signature says: at this time the longest log of this origin that I have seen was this one, and each that I saw
// was the beginning of the next. A witness must see to that before it signs; see [CheckConsistency].
func NewWitnessSigner(name string, private crypto.Signer, now func() time.Time) (note.Signer, error) {
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("audit: the key of witness %s is not Ed25519", name)
	}
	v, err := newVerifier(verifierKey(name, algCosignature, public))
	if err != nil {
		return nil, err
	}
	return &signer{v, func(msg []byte) ([]byte, error) {
		t := uint64(now().Unix()) // before 1970 it is a time in the far future, which verifiers refuse
		sig, err := private.Sign(nil, cosigned(t, msg), crypto.Hash(0))
		if err != nil {
			return nil, err
		}
		return append(binary.BigEndian.AppendUint64(nil, t), sig...), nil
	}}, nil
}

// WitnessVerifierKey returns the verifier key of a witness.
func WitnessVerifierKey(name string, public ed25519.PublicKey) string {
	return verifierKey(name, algCosignature, public)
}

// cosigned returns what a witness signs.
func cosigned(t uint64, msg []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", t), msg...)
}

func verifyCosignature(public ed25519.PublicKey, msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	t := binary.BigEndian.Uint64(sig)
	return t < 1<<63 && ed25519.Verify(public, cosigned(t, msg), sig[8:])
}

// cosignedAt returns the time in a signature that v has verified, 0 when its kind has none.
func cosignedAt(v note.Verifier, sig []byte) Time {
	if c, ok := v.(*verifier); !ok || c.alg != algCosignature || len(sig) < 8 {
		return 0
	}
	if t := binary.BigEndian.Uint64(sig); t <= maxNumber/1000 {
		return Time(t * 1000)
	}
	return maxNumber
}
