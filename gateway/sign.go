package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/hmac"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"strconv"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// maxTried is how many versions are tried where the request names none and the input does not tell.
const maxTried = 8

// signing is how a version signs: with which mechanism, over what.
type signing struct {
	mech         hsm.Mechanism
	in           []byte
	p1363, ecdsa bool
	size         int // of an ECDSA signature's half, bytes
}

// signing reads the request's choices and checks them against the algorithm, before anything costs.
func (c *Call) signing(a key.Algorithm) (signing, error) {
	var s signing
	info, err := a.Info()
	if err != nil {
		return s, err
	}
	r := &c.req
	if (r.has&fMessage == 0) == (r.has&fDigest == 0) {
		return s, fail(Malformed, "message or digest: exactly one of them must be given")
	}
	if r.Encoding != "" && (info.Family != key.FamilyEC || r.Encoding != "der" && r.Encoding != "p1363") {
		return s, fail(Malformed, "encoding: der or p1363, and only for ECDSA")
	}
	if r.Padding != "" && (info.Family != key.FamilyRSA || r.Padding != "pss" && r.Padding != "pkcs1v15") {
		return s, fail(Malformed, "padding: pss or pkcs1v15, and only for RSA")
	}
	hash := hsm.SHA256
	if r.Hash != "" {
		if hash, err = hsm.ParseHash(r.Hash); err != nil || hash == hsm.SHA1 {
			return s, fail(Malformed, "hash: use sha2-256, sha2-384 or sha2-512")
		}
	}
	switch info.Family {
	case key.FamilyEd25519:
		if r.has&(fDigest|fHash) != 0 {
			return s, fail(Malformed, "digest, hash: Ed25519 signs the message itself")
		}
		s.mech.Type, s.in = hsm.EDDSA, r.Message
		return s, nil
	case key.FamilyRSA:
		s.mech.Type = hsm.RSAPKCSPSS
		if r.Padding == "pkcs1v15" {
			s.mech.Type = hsm.RSAPKCS
		}
	case key.FamilyEC:
		if r.Hash == "" && info.Bits == 384 {
			hash = hsm.SHA384
		} else if r.Hash == "" && info.Bits == 521 {
			hash = hsm.SHA512
		}
		s.mech.Type, s.ecdsa, s.p1363, s.size = hsm.ECDSA, true, r.Encoding == "p1363", (info.Bits+7)/8
	default:
		return s, fail(WrongUsage, "a key of %s does not sign", a)
	}
	s.in = r.Digest
	if r.has&fMessage != 0 {
		h := hash.Crypto().New()
		h.Write(r.Message)
		s.in = h.Sum(nil)
	} else if len(s.in) != hash.Size() {
		return s, fail(Malformed, "digest: %d bytes were expected for %s, not %d", hash.Size(), hash, len(s.in))
	}
	if s.ecdsa {
		s.in = s.in[:min(len(s.in), s.size)] // FIPS 186-5, 6.4.1: the leftmost bits
		return s, nil
	}
	s.mech.Hash = hash
	return s, nil
}

func (c *Call) sign() error {
	v, err := c.use(c.req.Version, key.Sign)
	if err != nil {
		return err
	}
	s, err := c.signing(v.Algorithm)
	if err != nil {
		return err
	}
	p, err := c.crypto(v)
	if err != nil {
		return err
	}
	sig, err := p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpSign, Mech: s.mech, In: s.in})
	if err != nil {
		return err
	}
	if s.ecdsa && !s.p1363 {
		sig = appendDER(nil, sig)
	}
	c.open(v)
	c.out = append(c.out, `,"signature":"`...)
	c.out = base64.StdEncoding.AppendEncode(c.out, sig)
	c.out = append(c.out, `"}`...)
	return nil
}

// open begins an answer with what every answer about a version says.
func (c *Call) open(v *loaded) {
	c.out = append(c.out, `{"key":`...)
	c.out = appendString(c.out, v.Name)
	c.out = append(c.out, `,"version":`...)
	c.out = strconv.AppendUint(c.out, uint64(v.Number), 10)
	c.out = append(c.out, `,"algorithm":"`...)
	c.out = append(c.out, v.Algorithm...)
	c.out = append(c.out, '"')
}

// appendDER appends r ‖ s as an ECDSA-Sig-Value (RFC 3279, 2.2.3).
func appendDER(b, rs []byte) []byte {
	half := len(rs) / 2
	n := derIntLen(rs[:half]) + derIntLen(rs[half:])
	b = append(b, 0x30)
	if n >= 128 {
		b = append(b, 0x81)
	}
	b = append(b, byte(n))
	return appendDERInt(appendDERInt(b, rs[:half]), rs[half:])
}

func trimZeros(v []byte) []byte {
	for len(v) > 1 && v[0] == 0 {
		v = v[1:]
	}
	return v
}

func derIntLen(v []byte) int {
	v = trimZeros(v)
	return 2 + len(v) + int(v[0]>>7)
}

func appendDERInt(b, v []byte) []byte {
	v = trimZeros(v)
	b = append(b, 0x02, byte(len(v)+int(v[0]>>7)))
	if v[0] >= 0x80 {
		b = append(b, 0)
	}
	return append(b, v...)
}

// fromDER turns an ECDSA-Sig-Value into r ‖ s; nil when it is not a strict one.
func fromDER(der []byte, size int) []byte {
	var sig struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &sig)
	if err != nil || len(rest) != 0 || sig.R.Sign() <= 0 || sig.S.Sign() <= 0 || sig.R.BitLen() > 8*size || sig.S.BitLen() > 8*size {
		return nil
	}
	rs := make([]byte, 2*size)
	sig.R.FillBytes(rs[:size])
	sig.S.FillBytes(rs[size:])
	// Only the one right encoding is accepted, so that a signature cannot be written in two ways.
	if !bytes.Equal(appendDER(nil, rs), der) {
		return nil
	}
	return rs
}

// verify needs no token: the public half is here, and it is faster here.
func (c *Call) verify() error {
	if e := c.req.need(fSignature); e != nil {
		return e
	}
	return c.tryVersions(key.Verify, func(v *loaded) (bool, error) {
		s, err := c.signing(v.Algorithm)
		if err != nil {
			return false, err
		}
		sig := c.req.Signature
		if s.ecdsa && !s.p1363 {
			sig = fromDER(sig, s.size)
		}
		if pub, ok := v.pool.Public.(*ecdsa.PublicKey); ok && (sig == nil || len(sig) != 2*((pub.Params().BitSize+7)/8)) {
			return false, nil
		}
		return hsm.Verify(v.pool.Public, s.mech, s.in, sig) == nil, nil
	})
}

// tryVersions answers valid with the first version for which ok says so: the one the request names, else the
// primary one and then the others, newest first.
func (c *Call) tryVersions(u key.Usage, ok func(*loaded) (bool, error)) error {
	if c.req.Version != 0 {
		v, err := c.use(c.req.Version, u)
		if err != nil {
			return err
		}
		valid, err := ok(v)
		if err != nil {
			return err
		}
		return c.valid(valid, v.Number)
	}
	numbers, err := c.candidates(u)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		v, err := c.use(n, u)
		if err != nil {
			return err
		}
		if valid, err := ok(v); err != nil || valid {
			if err != nil {
				return err
			}
			return c.valid(true, v.Number)
		}
	}
	return c.valid(false, numbers[0])
}

// candidates returns the versions that may be used for u now, the primary one first, then newest first.
func (c *Call) candidates(u key.Usage) ([]uint32, error) {
	if err := c.may(u); err != nil {
		return nil, err
	}
	if v, err := c.s.cache.key(c.ctx, key.Ref{Name: c.name}); err == nil && v.Number == 1 && v.Permits(u, time.Now()) == nil {
		return []uint32{1}, nil // the common case: the first version is the only one
	}
	if err := c.s.cfg.Keys.Fresh(); err != nil {
		return nil, err
	}
	k, err := c.s.cfg.Keys.Describe(c.ctx, c.name)
	if err != nil {
		return nil, err
	}
	var out []uint32
	var why error = key.ErrState
	for i := len(k.Versions) - 1; i >= 0 && len(out) < maxTried; i-- {
		v := k.Versions[i]
		if err := v.Permits(u, time.Now()); err != nil {
			why = err
		} else if v.Number == k.Primary {
			out = append([]uint32{v.Number}, out...)
		} else {
			out = append(out, v.Number)
		}
	}
	if out == nil {
		return nil, why
	}
	return out, nil
}

func (c *Call) valid(ok bool, version uint32) error {
	c.out = append(c.out, `{"valid":`...)
	c.out = strconv.AppendBool(c.out, ok)
	c.out = append(c.out, `,"version":`...)
	c.out = strconv.AppendUint(c.out, uint64(version), 10)
	c.out = append(c.out, '}')
	return nil
}

var macMechanisms = map[key.Algorithm]hsm.MechanismType{
	key.HMACSHA256: hsm.SHA256HMAC, key.HMACSHA384: hsm.SHA384HMAC, key.HMACSHA512: hsm.SHA512HMAC,
}

// computeMAC makes the MAC of the request's message with v.
func (c *Call) computeMAC(ctx context.Context, v *loaded) ([]byte, error) {
	m, ok := macMechanisms[v.Algorithm]
	if !ok {
		return nil, fail(WrongUsage, "a key of %s makes no MACs", v.Algorithm)
	}
	p, err := c.crypto(v)
	if err != nil {
		return nil, err
	}
	return p.Do(ctx, v.pool, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: m}, In: c.req.Message})
}

func (c *Call) mac() error {
	if e := c.req.need(fMessage); e != nil {
		return e
	}
	v, err := c.use(c.req.Version, key.MAC)
	if err != nil {
		return err
	}
	m, err := c.computeMAC(c.ctx, v)
	if err != nil {
		return err
	}
	c.open(v)
	c.out = append(c.out, `,"mac":"`...)
	c.out = base64.StdEncoding.AppendEncode(c.out, m)
	c.out = append(c.out, `"}`...)
	return nil
}

func (c *Call) macVerify() error {
	if e := c.req.need(fMessage | fMAC); e != nil {
		return e
	}
	return c.tryVersions(key.VerifyMAC, func(v *loaded) (bool, error) {
		m, err := c.computeMAC(c.ctx, v)
		return err == nil && hmac.Equal(m, c.req.MAC), err
	})
}
