//go:build cgo

package pkcs11

import (
	"bytes"
	"slices"

	"keyway/hsm"
)

// mostWrapped is room for the wrapping of any private key Keyway knows: an RSA-4096 key has about 2,400 bytes.
const mostWrapped = 8192

// WrapKey wraps key under kek inside the token: under an AES key, or a secret key under a public RSA key with OAEP.
func (s *Session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	if err := hsm.CheckWrapKey(m); err != nil {
		return nil, err
	}
	if err := s.wraps(m); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := s.fits(m.Type, kek, hsm.FnWrap); err != nil {
		return nil, err
	}
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
		return s.wrapPadded(kek, key)
	}
	if r.code == hsm.KeyNotWrappable && s.t.profile.ClearWrap != nil && m.Type != hsm.RSAPKCSOAEP {
		return s.wrapClear(kek, m.Type, key)
	}
	if !r.fits(out) {
		return nil, s.failed(r.code, hsm.FnWrap)
	}
	return append([]byte(nil), out[:r.n]...), nil
}

// wraps says what the token lacks for wrapping with m.
func (s *Session) wraps(m hsm.Mechanism) error {
	if err := s.usable(m.Type); err != nil || m.Type != hsm.RSAPKCSOAEP {
		return err
	}
	return s.checkOAEP(m.Hash)
}

// UnwrapKey makes an object from what WrapKey made.
func (s *Session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	if err := hsm.CheckUnwrapKey(m, blob, spec); err != nil {
		return 0, err
	}
	if err := s.wraps(m); err != nil {
		return 0, err
	}
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	if err := s.fits(m.Type, kek, hsm.FnUnwrap); err != nil {
		return 0, err
	}
	p := &s.t.profile
	if m.Type != hsm.RSAPKCSOAEP && (slices.Contains(p.ClearWrap, spec.Type) || p.ECNeedsPoint && spec.Type == hsm.KeyEC) {
		return s.unwrapClear(kek, m.Type, blob, spec)
	}
	t := p.template(spec)
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.unwrap(s.h, kek, m, blob, t)
	if r.code != hsm.OK {
		return 0, s.failed(r.code, hsm.FnUnwrap)
	}
	if err := s.isAfter(r.handle, spec); err != nil {
		_ = s.t.lib.destroy(s.h, r.handle)
		return 0, err
	}
	return r.handle, nil
}

// isAfter refuses a private key of another kind or size than its Spec has. A template cannot name the size, so tokens take what the blob holds.
func (s *Session) isAfter(h hsm.Handle, spec hsm.Spec) error {
	var got []byte
	var err error
	right := true
	switch spec.Type {
	case hsm.KeyRSA:
		got, err = s.attribute(h, attrModulus)
		right = len(bytes.TrimLeft(got, "\x00"))*8 == spec.Bits
	case hsm.KeyEC:
		got, err = s.attribute(h, attrECParams)
		right = bytes.Equal(got, curveOf(spec).oid)
	}
	switch c := hsm.CodeOf(err); {
	case c == hsm.AttributeSensitive:
		return nil // this token does not say
	case err != nil && c != hsm.AttributeTypeInvalid:
		return err
	case err != nil || !right: // NSS makes an EC key of an RSA key's blob, which lacks these parameters
		return refused("the blob holds no such key of %d bits", spec.Bits)
	}
	return nil
}
