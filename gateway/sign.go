package gateway

import (
	"keyway/hsm"
	"keyway/lifecycle/key"
)

// signing is how a version signs: with which mechanism, over what.
type signing struct {
	mech         hsm.Mechanism
	in           []byte
	ecdsa, p1363 bool
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
		return s, fail(Malformed, "message, digest: exactly one of them must be given")
	}
	if r.has&fEncoding != 0 && (info.Family != key.FamilyEC || r.Encoding != "der" && r.Encoding != "p1363") {
		return s, fail(Malformed, "encoding: der or p1363, and only for ECDSA")
	}
	if r.has&fPadding != 0 && (info.Family != key.FamilyRSA || r.Padding != "pss" && r.Padding != "pkcs1v15") {
		return s, fail(Malformed, "padding: pss or pkcs1v15, and only for RSA")
	}
	hash := hsm.SHA256
	if r.has&fHash != 0 {
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
		switch {
		case r.has&fHash != 0:
		case info.Bits == 384:
			hash = hsm.SHA384
		case info.Bits == 521:
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
		sig = toDER(sig)
	}
	c.open(v)
	c.member("signature")
	c.out = stdBase64.AppendEncode(c.out, sig)
	c.out = append(c.out, `"}`...)
	return nil
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
		if s.ecdsa && len(sig) != 2*s.size {
			return false, nil
		}
		return hsm.Verify(v.pool.Public, s.mech, s.in, sig) == nil, nil
	})
}
