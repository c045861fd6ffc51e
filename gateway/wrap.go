package gateway

import (
	"errors"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// Formats of wrapped keys.
const (
	formatGCM  = "aes-gcm"
	formatKW   = "aes-kw"
	formatKWP  = "aes-kwp"
	formatOAEP = "rsa-oaep"
)

// format is the request's choice, else what goes with the algorithm.
func (c *Call) format(a key.Algorithm) (string, error) {
	f := c.req.Format
	switch f {
	case formatGCM, formatKW, formatKWP, formatOAEP:
	case "":
		if c.req.has&fFormat == 0 {
			if a.Asymmetric() {
				return formatOAEP, nil
			}
			return formatGCM, nil
		}
		fallthrough
	default:
		return "", fail(Malformed, "format: use aes-gcm, aes-kw, aes-kwp or rsa-oaep")
	}
	if a.Asymmetric() != (f == formatOAEP) {
		return "", fail(WrongUsage, "%s does not go with a key of %s", f, a)
	}
	return f, nil
}

// wrapMechanism is the mechanism of a format that is bare key wrapping. One that some token of the pool lacks is not used
// at all: what one member wrapped another must open.
func (c *Call) wrapMechanism(p Crypto, format string) (hsm.MechanismType, error) {
	if c.req.has&fAAD != 0 {
		return 0, fail(Malformed, "aad: %s takes none", format)
	}
	if c.req.has&fHash != 0 {
		return 0, fail(Malformed, "hash: it is for RSA keys")
	}
	m := hsm.AESKeyWrap
	if format == formatKWP {
		m = hsm.AESKeyWrapKWP
	}
	if p.Has(m) {
		return m, nil
	}
	if !p.Ready() {
		return 0, noMember()
	}
	return 0, fail(WrongUsage, "not every token of this key's pool has %s (%s)", format, m)
}

func (c *Call) wrap() error {
	if e := c.req.need(fPlaintextKey); e != nil {
		return e
	}
	v, err := c.use(c.req.Version, key.Wrap)
	if err != nil {
		return err
	}
	f, err := c.format(v.Algorithm)
	if err != nil {
		return err
	}
	in := c.req.PlaintextKey
	if len(in) == 0 {
		return fail(Malformed, "plaintext_key: it is empty")
	}
	if f == formatGCM || f == formatOAEP {
		c.open(v)
		return c.closing(c.seal(v, purposeWrap, in, "wrapped"))
	}
	if f == formatKW && (len(in) < 16 || len(in)%8 != 0) {
		return fail(Malformed, "plaintext_key: aes-kw takes multiples of 8 bytes from 16 on, not %d", len(in))
	}
	p, err := c.crypto(v)
	if err != nil {
		return err
	}
	m, err := c.wrapMechanism(p, f)
	if err != nil {
		return err
	}
	out, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: m}, In: in})
	if err != nil {
		return err
	}
	c.open(v)
	c.member("wrapped")
	c.out = stdBase64.AppendEncode(c.out, out)
	c.out = append(c.out, `"}`...)
	return nil
}

func (c *Call) unwrap() error {
	if e := c.req.need(fWrapped); e != nil {
		return e
	}
	if err := c.may(key.Unwrap); err != nil {
		return err
	}
	k, err := c.s.cache.describe(c.ctx, c.name)
	if err != nil {
		return err
	}
	f, err := c.format(k.Algorithm)
	if err != nil {
		return err
	}
	var out []byte
	var v *loaded
	if f == formatGCM || f == formatOAEP {
		out, v, err = c.unseal(c.req.Wrapped, "wrapped", purposeWrap, key.Unwrap)
	} else {
		out, v, err = c.unwrapBare(f)
	}
	if err != nil {
		return err
	}
	c.clearText(v, "plaintext_key", out)
	return nil
}

// unwrapBare opens a wrapping that says nothing about itself: each version that may is tried.
func (c *Call) unwrapBare(format string) ([]byte, *loaded, error) {
	wrapped, e := c.req.decode(stdBase64, []byte("wrapped"), c.req.Wrapped, "not standard base64 with padding")
	if e != nil {
		return nil, nil, e
	}
	return c.openWith(key.Unwrap, func(v *loaded, p Crypto) (hsm.Op, error) {
		m, err := c.wrapMechanism(p, format)
		if err == nil && (len(wrapped) < 16 || len(wrapped)%8 != 0) {
			err = rejected(errors.New("no wrapping is that long"))
		}
		return hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: m}, In: wrapped}, err
	})
}
