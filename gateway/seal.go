package gateway

import (
	"errors"
	"fmt"
	"slices"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// seal protects in with v and appends the text form to c.out as a member called name.
func (c *Call) seal(v *loaded, purpose byte, in []byte, name string) error {
	info, err := v.Algorithm.Info()
	if err != nil {
		return err
	}
	p, err := c.crypto(v)
	if err != nil {
		return err
	}
	switch info.Family {
	case key.FamilyAES:
		if c.req.has&fHash != 0 {
			return fail(Malformed, "hash: it is for RSA keys")
		}
		if err := c.s.uses.take(c.ctx, v.ID); err != nil {
			return err
		}
		c.aad = append(appendHeader(c.aad[:0], purpose, v.Version), c.req.AAD...)
		sealed, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: c.aad}, In: in})
		if err != nil {
			return err
		}
		c.member(name)
		c.out = appendBlob(c.out, c.aad[:headerSize], sealed)
		c.out = append(c.out, '"')
		return nil
	case key.FamilyRSA:
		sealed, err := c.sealOAEP(v, p, in)
		if err != nil {
			return err
		}
		c.member(name)
		c.out = stdBase64.AppendEncode(c.out, sealed)
		c.out = append(c.out, '"')
		return nil
	}
	return fail(WrongUsage, "a key of %s neither encrypts nor wraps", v.Algorithm)
}

// unseal opens what seal made, with the version that the blob names, which must be the request's where that names one.
func (c *Call) unseal(text []byte, name string, purpose byte, u key.Usage) ([]byte, *loaded, error) {
	if err := c.may(u); err != nil {
		return nil, nil, err
	}
	k, err := c.s.cache.describe(c.ctx, c.name)
	switch {
	case err != nil:
		return nil, nil, err
	case !k.Usages.Has(u):
		return nil, nil, fmt.Errorf("%w: %s is for %s, not for %s", key.ErrUsage, k.Name, k.Usages, u)
	case k.Algorithm.Asymmetric():
		return c.unsealOAEP(text, name, u)
	}
	b, e := c.req.parseBlob(name, text)
	if e != nil {
		return nil, nil, e
	}
	if c.req.has&fHash != 0 {
		return nil, nil, fail(Malformed, "hash: it is for RSA keys")
	}
	if b.purpose != purpose || b.keyID != k.ID || b.version == 0 || c.req.Version != 0 && c.req.Version != b.version {
		return nil, nil, rejected(errors.New("the header names another key, version or purpose"))
	}
	v, err := c.use(b.version, u)
	if errors.Is(err, key.ErrNotFound) {
		return nil, nil, rejected(err)
	}
	if err != nil {
		return nil, nil, err
	}
	p, err := c.crypto(v)
	if err != nil {
		return nil, nil, err
	}
	c.aad = append(append(c.aad[:0], b.header...), c.req.AAD...)
	out, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: c.aad}, In: b.sealed})
	if hsm.FaultOf(err) == hsm.Caller {
		err = rejected(err)
	}
	return out, v, err
}

func (c *Call) encrypt() error {
	if e := c.req.need(fPlaintext); e != nil {
		return e
	}
	v, err := c.use(c.req.Version, key.Encrypt)
	if err != nil {
		return err
	}
	c.open(v)
	return c.closing(c.seal(v, purposeEncrypt, c.req.Plaintext, "ciphertext"))
}

func (c *Call) decrypt() error {
	if e := c.req.need(fCiphertext); e != nil {
		return e
	}
	out, v, err := c.unseal(c.req.Ciphertext, "ciphertext", purposeEncrypt, key.Decrypt)
	if err != nil {
		return err
	}
	c.clearText(v, "plaintext", out)
	return nil
}

// rewrap opens under whatever version and protects again under the primary one. The clear text never leaves.
func (c *Call) rewrap() error {
	if (c.req.has&fCiphertext == 0) == (c.req.has&fWrapped == 0) {
		return fail(Malformed, "ciphertext, wrapped: exactly one of them must be given")
	}
	text, name, purpose, opens, seals := c.req.Ciphertext, "ciphertext", byte(purposeEncrypt), key.Decrypt, key.Encrypt
	if c.req.has&fWrapped != 0 {
		text, name, purpose, opens, seals = c.req.Wrapped, "wrapped", purposeWrap, key.Unwrap, key.Wrap
	}
	v, err := c.use(0, seals)
	if err != nil {
		return err
	}
	out, _, err := c.unseal(text, name, purpose, opens)
	if err != nil {
		return err
	}
	defer clear(out)
	c.open(v)
	return c.closing(c.seal(v, purpose, out, name))
}

// open begins an answer with what every answer about a version says.
func (c *Call) open(v *loaded) {
	c.out = append(c.out, `{"key":"`...)
	c.out = append(c.out, v.Name...) // needs no escapes (key.CheckName)
	c.out = append(c.out, `","version":`...)
	c.out = appendUint(c.out, v.Number)
	c.out = append(c.out, `,"algorithm":"`...)
	c.out = append(c.out, v.Algorithm...)
	c.out = append(c.out, '"')
}

// member begins a string member of the answer, after others.
func (c *Call) member(name string) {
	c.out = append(c.out, `,"`...)
	c.out = append(c.out, name...)
	c.out = append(c.out, `":"`...)
}

// closing ends the answer's object.
func (c *Call) closing(err error) error {
	if err == nil {
		c.out = append(c.out, '}')
	}
	return err
}

// clearText answers with opened bytes and wipes them.
func (c *Call) clearText(v *loaded, name string, out []byte) {
	c.open(v)
	c.secretMember(name, out)
	c.out = append(c.out, '}')
	clear(out)
}

// secretMember appends a whole string member whose value is secret. The answer's buffer grows before, not after: a buffer
// that was outgrown is not wiped.
func (c *Call) secretMember(name string, value []byte) {
	c.out = slices.Grow(c.out, len(name)+stdBase64.EncodedLen(len(value))+16)
	c.member(name)
	c.out = stdBase64.AppendEncode(c.out, value)
	c.out = append(c.out, '"')
}
