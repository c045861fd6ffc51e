package gateway

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// oaepHash is the request's choice, else the strongest the pool's tokens have in common.
func (c *Call) oaepHash(p Crypto) (hsm.Hash, error) {
	if c.req.has&fAAD != 0 {
		return 0, fail(Malformed, "aad: RSA OAEP takes none")
	}
	want := hsm.Hash(0)
	if c.req.has&fHash != 0 {
		var err error
		if want, err = hsm.ParseHash(c.req.Hash); err != nil {
			return 0, fail(Malformed, "hash: use sha1, sha2-256, sha2-384 or sha2-512")
		}
	}
	can := p.OAEPHashes()
	switch {
	case len(can) == 0 && !p.Ready():
		return 0, noMember()
	case len(can) == 0:
		return 0, fail(WrongUsage, "the tokens of this key's pool have no RSA OAEP")
	case want == 0:
		return can[0], nil
	case !slices.Contains(can, want):
		return 0, fail(WrongUsage, "the tokens of this key's pool have no RSA OAEP with %s", want)
	}
	return want, nil
}

// noMember is for what cannot be known while no token of the pool serves.
func noMember() *Error {
	return &Error{Kind: Unavailable, Detail: "no token of the key's pool serves now", RetryAfter: time.Second}
}

// sealOAEP needs no token: the public half is here.
func (c *Call) sealOAEP(v *loaded, p Crypto, in []byte) ([]byte, error) {
	h, err := c.oaepHash(p)
	if err != nil {
		return nil, err
	}
	pub, ok := v.pool.Public.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the public half of an RSA key is missing")
	}
	if most := pub.Size() - 2*h.Size() - 2; len(in) > most {
		field := "plaintext"
		if c.req.has&fPlaintextKey != 0 {
			field = "plaintext_key"
		}
		return nil, fail(Malformed, "%s: %d bytes are more than the %d that RSA OAEP with %s takes with this key", field, len(in), most, h)
	}
	return rsa.EncryptOAEP(h.Crypto().New(), rand.Reader, pub, in, nil)
}

func (c *Call) unsealOAEP(text []byte, name string, u key.Usage) ([]byte, *loaded, error) {
	sealed, e := c.req.decode(stdBase64, []byte(name), text, "not standard base64 with padding")
	if e != nil {
		return nil, nil, e
	}
	return c.openWith(u, func(v *loaded, p Crypto) (hsm.Op, error) {
		h, err := c.oaepHash(p)
		if err != nil {
			return hsm.Op{}, err
		}
		pub, ok := v.pool.Public.(*rsa.PublicKey)
		if !ok {
			return hsm.Op{}, fail(WrongUsage, "a key of %s opens nothing", v.Algorithm)
		}
		if len(sealed) != pub.Size() {
			return hsm.Op{}, rejected(errors.New("not as long as the modulus"))
		}
		return hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.RSAPKCSOAEP, Hash: h}, In: sealed}, nil
	})
}
