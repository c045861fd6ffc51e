//go:build cgo

package pkcs11

import (
	"fmt"
	"slices"

	"keyway/hsm"
)

// mostWrapped is room for the wrapping of any private key Keyway knows: an RSA-4096 key has about 2,400 bytes.
const mostWrapped = 8192

// WrapKey wraps key under kek inside the token: under an AES key, or a secret key under a public RSA key with OAEP.
func (s *Session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	if err := s.wraps(m); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if s.t.profile.WrapsAnything {
		v := []byte{0}
		if r := s.t.lib.attribute(s.h, key, attrExtractable, v); r.code != hsm.OK {
			return nil, s.failed(r.code, hsm.FnGetAttribute)
		}
		if v[0] == 0 {
			return nil, s.failed(hsm.KeyUnextractable, hsm.FnWrap)
		}
	}
	// A fixed, large buffer: the length is not asked for, because some tokens answer that wrongly.
	out := make([]byte, mostWrapped)
	r := s.t.lib.wrap(s.h, kek, m, key, out)
	if r.code == hsm.DataLenRange && s.t.profile.WrapWholeOnly && m.Type == hsm.AESKeyWrap {
		return nil, fmt.Errorf("%w: this token does not pad private keys for %s; wrap with %s, or on another member",
			hsm.ErrUnsupported, m.Type, hsm.AESKeyWrapKWP)
	}
	if r.code == hsm.KeyNotWrappable && s.t.profile.ClearWrap != nil && m.Type != hsm.RSAPKCSOAEP {
		return s.wrapClear(kek, m.Type, key)
	}
	if r.code == hsm.OK && r.n > len(out) {
		r.code = hsm.GeneralError
	}
	if r.code != hsm.OK {
		return nil, s.failed(r.code, hsm.FnWrap)
	}
	return append([]byte(nil), out[:r.n]...), nil
}

func (s *Session) wraps(m hsm.Mechanism) error {
	switch m.Type {
	case hsm.AESKeyWrap, hsm.AESKeyWrapKWP:
	case hsm.RSAPKCSOAEP:
		if err := s.checkOAEP(m.Hash); err != nil {
			return err
		}
	default:
		return refused("keys are not wrapped with %s", m.Type)
	}
	return s.usable(m.Type)
}

// UnwrapKey makes an object from what WrapKey made.
func (s *Session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	if err := s.wraps(m); err != nil {
		return 0, err
	}
	if err := checkBlob(m.Type, len(blob)); err != nil {
		return 0, err
	}
	if err := spec.Check(); err != nil {
		return 0, err
	}
	if spec.ObjectClass() == hsm.ClassPublic {
		return 0, refused("public keys are imported, not unwrapped")
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	if m.Type != hsm.RSAPKCSOAEP && slices.Contains(s.t.profile.ClearWrap, spec.Type) {
		return s.unwrapClear(kek, m.Type, blob, spec)
	}
	t := s.t.profile.template(spec)
	if spec.Type == hsm.KeyEC && s.t.profile.ECNeedsName {
		t.bytes(attrNSSDB, nssName(spec))
	}
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.unwrap(s.h, kek, m, blob, t)
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnUnwrap)
	}
	return r.handle, nil
}
