package hsm

import "fmt"

// MaxRandom bounds OpRandom, in bytes, so that one operation cannot hold a session for long.
const MaxRandom = 1 << 20

func refused(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrInput, fmt.Sprintf(format, a...))
}

// Check returns an [ErrInput] that says why op makes no sense on any token, nil when it may. Drivers refuse so before
// a token sees it, since tokens differ in what they make of nonsense. The key is not looked at.
func (op *Op) Check() error {
	m := op.Mech.Type
	switch op.Kind {
	case OpRandom:
		if op.Len < 1 || op.Len > MaxRandom {
			return refused("%d random bytes: ask for 1 to %d", op.Len, MaxRandom)
		}
		return nil
	case OpSign:
		switch m {
		case RSAPKCS, RSAPKCSPSS:
			return CheckDigest(op.Mech.Hash, op.In)
		case ECDSA:
			if len(op.In) == 0 || len(op.In) > 66 {
				return refused("%d bytes are no digest", len(op.In))
			}
			return nil
		case EDDSA, SHA256HMAC, SHA384HMAC, SHA512HMAC, AESCMAC:
			return nil
		}
	case OpEncrypt:
		if m == AESGCM {
			return nil
		}
	case OpDecrypt:
		switch m {
		case AESGCM:
			if n := len(op.In); n < GCMIVSize+GCMTagSize {
				return refused("%d bytes are no AES-GCM ciphertext, which has at least %d", n, GCMIVSize+GCMTagSize)
			}
			return nil
		case RSAPKCSOAEP:
			return checkBlob(op.Mech, len(op.In))
		}
	case OpWrap:
		n := len(op.In)
		switch {
		case m == AESKeyWrap && (n < 16 || n%8 != 0):
			return refused("%d bytes cannot be wrapped by %s: it takes multiples of 8 from 16 on", n, m)
		case m == AESKeyWrapKWP && n == 0:
			return refused("nothing to wrap")
		case m == AESKeyWrap || m == AESKeyWrapKWP:
			return nil
		}
	case OpUnwrap:
		if m == AESKeyWrap || m == AESKeyWrapKWP {
			return checkBlob(op.Mech, len(op.In))
		}
	}
	return refused("cannot %s with %s", op.Kind, m)
}

// checkBlob refuses what cannot be the wrapping, or the OAEP encryption, of anything.
func checkBlob(m Mechanism, n int) error {
	least := 24
	switch m.Type {
	case RSAPKCSOAEP:
		if m.Hash.Size() == 0 {
			return refused("RSA OAEP needs a hash")
		}
		if n < 128 || n > 1024 {
			return refused("%d bytes are no RSA block", n)
		}
		return nil
	case AESKeyWrapKWP:
		least = 16
	}
	if n < least || n%8 != 0 {
		return refused("%d bytes are not what %s makes: multiples of 8 from %d on", n, m.Type, least)
	}
	return nil
}

// CheckWrapKey returns an [ErrInput] unless keys may be wrapped with m.
func CheckWrapKey(m Mechanism) error {
	switch m.Type {
	case AESKeyWrap, AESKeyWrapKWP:
		return nil
	case RSAPKCSOAEP:
		if m.Hash.Size() == 0 {
			return refused("RSA OAEP needs a hash")
		}
		return nil
	}
	return refused("keys are not wrapped with %s", m.Type)
}

// CheckUnwrapKey returns an [ErrInput] unless blob may hold, wrapped with m, a key after s.
func CheckUnwrapKey(m Mechanism, blob []byte, s Spec) error {
	if err := CheckWrapKey(m); err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return err
	}
	if err := checkBlob(m, len(blob)); err != nil {
		return err
	}
	switch s.ObjectClass() {
	case ClassPublic:
		return refused("public keys are imported, not unwrapped")
	case ClassSecret: // tokens take the length from the blob, whatever the template says
		if want := (s.Bits/8+7)/8*8 + 8; m.Type != RSAPKCSOAEP && len(blob) != want {
			return refused("a wrapped secret of %d bits has %d bytes, not %d", s.Bits, want, len(blob))
		}
	}
	return nil
}
