package gateway

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"

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
		if c.req.Hash != "" {
			return fail(Malformed, "hash: it is for RSA keys")
		}
		if err := c.s.uses.take(c.ctx, v.ID); err != nil {
			return err
		}
		header := appendHeader(make([]byte, 0, headerSize+len(c.req.AAD)), purpose, v.Version)
		sealed, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: append(header, c.req.AAD...)}, In: in})
		if err != nil {
			return err
		}
		c.member(name)
		c.out = appendBlob(c.out, header[:headerSize], sealed)
		c.out = append(c.out, '"')
		return nil
	case key.FamilyRSA:
		sealed, err := c.sealOAEP(v, p, in)
		if err != nil {
			return err
		}
		c.member(name)
		c.out = base64.StdEncoding.AppendEncode(c.out, sealed)
		c.out = append(c.out, '"')
		return nil
	}
	return fail(WrongUsage, "a key of %s neither encrypts nor wraps", v.Algorithm)
}

// member begins a string member of the answer, after others.
func (c *Call) member(name string) {
	c.out = append(c.out, `,"`...)
	c.out = append(c.out, name...)
	c.out = append(c.out, `":"`...)
}

// oaepHash is the request's choice, else the strongest the pool's tokens have in common.
func (c *Call) oaepHash(p Crypto) (hsm.Hash, error) {
	if c.req.AAD != nil {
		return 0, fail(Malformed, "aad: RSA OAEP takes none")
	}
	can := p.OAEPHashes()
	if c.req.Hash == "" {
		if len(can) == 0 {
			return 0, fail(WrongUsage, "the tokens of this key's pool have no RSA OAEP")
		}
		return can[0], nil
	}
	want, err := hsm.ParseHash(c.req.Hash)
	if err != nil {
		return 0, fail(Malformed, "hash: use sha1, sha2-256, sha2-384 or sha2-512")
	}
	for _, h := range can {
		if h == want {
			return h, nil
		}
	}
	return 0, fail(WrongUsage, "the tokens of this key's pool have no RSA OAEP with %s", want)
}

// sealOAEP needs no token: the public half is here.
func (c *Call) sealOAEP(v *loaded, p Crypto, in []byte) ([]byte, error) {
	h, err := c.oaepHash(p)
	if err != nil {
		return nil, err
	}
	pub, ok := v.pool.Public.(*rsa.PublicKey)
	if !ok {
		return nil, fail(Internal, "the key's public half is missing")
	}
	if most := pub.Size() - 2*h.Size() - 2; len(in) > most {
		return nil, fail(Malformed, "%d bytes are more than the %d that RSA OAEP with %s takes with this key", len(in), most, h)
	}
	return rsa.EncryptOAEP(h.Crypto().New(), rand.Reader, pub, in, nil)
}

// unseal opens what seal made. version is what the request says, 0 for what the blob says.
func (c *Call) unseal(text, name string, purpose byte, u key.Usage) ([]byte, *loaded, error) {
	if err := c.may(u); err != nil {
		return nil, nil, err
	}
	v, err := c.s.cache.key(c.ctx, key.Ref{Name: c.name, Version: c.req.Version})
	if err != nil && c.req.Version == 0 && errors.Is(err, key.ErrState) {
		// No primary version; an older one may still open things.
		v, err = c.s.cache.key(c.ctx, key.Ref{Name: c.name, Version: 1})
	}
	if err != nil {
		return nil, nil, err
	}
	if v.Algorithm.Asymmetric() {
		return c.unsealOAEP(text, name, u)
	}
	b, e := parseBlob(name, text)
	if e != nil {
		return nil, nil, e
	}
	if c.req.Hash != "" {
		return nil, nil, fail(Malformed, "hash: it is for RSA keys")
	}
	if b.purpose != purpose || b.keyID != v.KeyID || b.version == 0 || c.req.Version != 0 && c.req.Version != b.version {
		return nil, nil, rejected(errors.New("the header names another key, version or purpose"))
	}
	v, err = c.use(b.version, u)
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
	aad := append(b.header, c.req.AAD...)
	out, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: aad}, In: b.sealed})
	if hsm.FaultOf(err) == hsm.Caller {
		err = rejected(err)
	}
	return out, v, err
}

func (c *Call) unsealOAEP(text, name string, u key.Usage) ([]byte, *loaded, error) {
	sealed, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, nil, fail(Malformed, "%s: not standard base64 with padding", name)
	}
	return c.openWith(u, func(v *loaded, p Crypto) (hsm.Op, error) {
		h, err := c.oaepHash(p)
		pub, ok := v.pool.Public.(*rsa.PublicKey)
		if !ok {
			return hsm.Op{}, fail(WrongUsage, "a key of %s opens nothing", v.Algorithm)
		}
		if err == nil && len(sealed) != pub.Size() {
			err = rejected(errors.New("not as long as the modulus"))
		}
		return hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: h}, In: sealed}, err
	})
}

// openWith runs an opening operation with the version the request names, else with each that may, until one opens.
func (c *Call) openWith(u key.Usage, op func(*loaded, Crypto) (hsm.Op, error)) ([]byte, *loaded, error) {
	numbers := []uint32{c.req.Version}
	if c.req.Version == 0 {
		var err error
		if numbers, err = c.candidates(u); err != nil {
			return nil, nil, err
		}
	}
	var last error
	for _, n := range numbers {
		v, err := c.use(n, u)
		if err != nil {
			return nil, nil, err
		}
		p, err := c.crypto(v)
		if err != nil {
			return nil, nil, err
		}
		o, err := op(v, p)
		if err != nil {
			return nil, nil, err
		}
		out, err := p.Do(c.ctx, v.pool, o)
		if hsm.FaultOf(err) != hsm.Caller {
			return out, v, err
		}
		last = err
	}
	return nil, nil, rejected(last)
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
	c.member(name)
	c.out = base64.StdEncoding.AppendEncode(c.out, out)
	c.out = append(c.out, `"}`...)
	clear(out)
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

// wrapMechanism is the mechanism of a format that carries bare key wrapping.
func (c *Call) wrapMechanism(p Crypto, v *loaded) (hsm.MechanismType, error) {
	if c.req.AAD != nil {
		return 0, fail(Malformed, "aad: %s takes none", c.req.Format)
	}
	if v.Algorithm.Asymmetric() {
		return 0, fail(WrongUsage, "%s is for AES keys, and this is one of %s", c.req.Format, v.Algorithm)
	}
	m := hsm.AESKeyWrap
	if c.req.Format == formatKWP {
		m = hsm.AESKeyWrapKWP
	}
	if !p.Has(m) {
		return 0, fail(WrongUsage, "not every token of this key's pool has %s (%s)", c.req.Format, m)
	}
	return m, nil
}

func (c *Call) wrap() error {
	if e := c.req.need(fPlaintextKey); e != nil {
		return e
	}
	v, err := c.use(c.req.Version, key.Wrap)
	if err != nil {
		return err
	}
	in := c.req.PlaintextKey
	if len(in) == 0 {
		return fail(Malformed, "plaintext_key: it is empty")
	}
	switch c.req.Format {
	case "", formatGCM, formatOAEP:
		if v.Algorithm.Asymmetric() != (c.req.Format == formatOAEP) && c.req.Format != "" {
			return fail(WrongUsage, "%s does not go with a key of %s", c.req.Format, v.Algorithm)
		}
		c.open(v)
		return c.closing(c.seal(v, purposeWrap, in, "wrapped"))
	case formatKW, formatKWP:
	default:
		return fail(Malformed, "format: use aes-gcm, aes-kw, aes-kwp or rsa-oaep")
	}
	if c.req.Format == formatKW && (len(in) < 16 || len(in)%8 != 0) {
		return fail(Malformed, "plaintext_key: aes-kw takes multiples of 8 bytes from 16 on, not %d", len(in))
	}
	p, err := c.crypto(v)
	if err != nil {
		return err
	}
	m, err := c.wrapMechanism(p, v)
	if err != nil {
		return err
	}
	out, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpWrap, Mech: hsm.Mechanism{Type: m}, In: in})
	if err != nil {
		return err
	}
	c.open(v)
	c.member("wrapped")
	c.out = base64.StdEncoding.AppendEncode(c.out, out)
	c.out = append(c.out, `"}`...)
	return nil
}

func (c *Call) unwrap() error {
	if e := c.req.need(fWrapped); e != nil {
		return e
	}
	var out []byte
	var v *loaded
	var err error
	switch c.req.Format {
	case "", formatGCM, formatOAEP:
		out, v, err = c.unseal(c.req.Wrapped, "wrapped", purposeWrap, key.Unwrap)
	case formatKW, formatKWP:
		var wrapped []byte
		if wrapped, err = base64.StdEncoding.Strict().DecodeString(c.req.Wrapped); err != nil || len(wrapped) < 16 || len(wrapped)%8 != 0 {
			return fail(Malformed, "wrapped: standard base64 of a multiple of 8 bytes was expected")
		}
		out, v, err = c.openWith(key.Unwrap, func(v *loaded, p Crypto) (hsm.Op, error) {
			m, err := c.wrapMechanism(p, v)
			return hsm.Op{Kind: hsm.OpUnwrap, Mech: hsm.Mechanism{Type: m}, In: wrapped}, err
		})
	default:
		return fail(Malformed, "format: use aes-gcm, aes-kw, aes-kwp or rsa-oaep")
	}
	if err != nil {
		return err
	}
	c.clearText(v, "plaintext_key", out)
	return nil
}

// rewrap opens under whatever version and protects again under the primary one. The clear text never leaves.
func (c *Call) rewrap() error {
	if (c.req.has&fCiphertext == 0) == (c.req.has&fWrapped == 0) {
		return fail(Malformed, "ciphertext or wrapped: exactly one of them must be given")
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

// datakey makes a key on a token and returns it wrapped, and clear when asked.
func (c *Call) datakey() error {
	if c.req.has&fBits == 0 {
		c.req.Bits = 256
	}
	if b := c.req.Bits; b != 128 && b != 256 && b != 512 {
		return fail(Malformed, "bits: use 128, 256 or 512")
	}
	v, err := c.use(c.req.Version, key.Wrap)
	if err != nil {
		return err
	}
	p, err := c.crypto(v)
	if err != nil {
		return err
	}
	fresh, err := p.Do(c.ctx, nil, hsm.Op{Kind: hsm.OpRandom, Len: c.req.Bits / 8})
	if err != nil {
		return err
	}
	defer clear(fresh)
	c.open(v)
	if err := c.seal(v, purposeWrap, fresh, "wrapped"); err != nil {
		return err
	}
	if c.req.WantPlain {
		c.member("plaintext_key")
		c.out = base64.StdEncoding.AppendEncode(c.out, fresh)
		c.out = append(c.out, '"')
	}
	return c.closing(nil)
}

func (c *Call) random() error {
	if n := c.req.Bytes; n < 1 || n > 1024 {
		return fail(Malformed, "bytes: from 1 to 1024")
	}
	p, ok := c.s.cfg.Pools(c.s.cfg.DefaultPool)
	if !ok {
		return fail(Unavailable, "no pool serves random bytes here")
	}
	out, err := p.Do(c.ctx, nil, hsm.Op{Kind: hsm.OpRandom, Len: c.req.Bytes})
	if err != nil {
		return err
	}
	c.out = append(c.out, `{"random":"`...)
	c.out = base64.StdEncoding.AppendEncode(c.out, out)
	c.out = append(c.out, `"}`...)
	clear(out)
	return nil
}

// thumbprint names a public key in a JWKS: the SHA-256 of its SubjectPublicKeyInfo, with the version.
func thumbprint(v *key.Version) string {
	h := sha256.Sum256(v.Public)
	return v.Name + ":" + strconv.FormatUint(uint64(v.Number), 10) + ":" + base64.RawURLEncoding.EncodeToString(h[:12])
}
