package gateway

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"strconv"
	"time"

	"keyway/lifecycle/key"
)

//go:embed openapi.json
var openAPIDocument []byte

func (c *Call) openAPI() error {
	c.out = append(c.out, openAPIDocument...)
	return nil
}

// healthz says that the process serves; whether its tokens do is readyz's matter.
func (c *Call) healthz() error {
	c.out = append(c.out, `{"status":"alive"}`...)
	return nil
}

func (c *Call) readyz() error {
	if c.s.draining.Load() {
		return &Error{Kind: Unavailable, Detail: "the gateway is shutting down", RetryAfter: time.Second}
	}
	if c.s.cfg.Ready != nil {
		if err := c.s.cfg.Ready(); err != nil {
			return &Error{Kind: Unavailable, Detail: err.Error(), RetryAfter: time.Second, Cause: err}
		}
	}
	c.out = append(c.out, `{"status":"ready"}`...)
	return nil
}

// seen returns a key this client may do anything with.
func (c *Call) seen() (*key.Key, error) {
	if c.name == "" || c.dir.Allowed(c.client, c.name) == 0 {
		return nil, key.ErrNotFound
	}
	return c.s.cache.describe(c.ctx, c.name)
}

func (c *Call) describe() error {
	k, err := c.seen()
	if err != nil {
		return err
	}
	b, err := json.Marshal(k)
	c.out = append(c.out, b...)
	return err
}

// publicKeys returns the versions whose public half may be used now, the primary one first, then newest first.
func (c *Call) publicKeys() ([]*key.Version, error) {
	k, err := c.seen()
	if err != nil {
		return nil, err
	}
	if !k.Algorithm.Asymmetric() {
		return nil, fail(WrongUsage, "a key of %s has no public half", k.Algorithm)
	}
	var out []*key.Version
	for _, v := range newestFirst(k) {
		if v.Public != nil && (v.Permits(key.Verify, c.now) == nil || v.Permits(key.Encrypt, c.now) == nil || v.Permits(key.Wrap, c.now) == nil) {
			out = append(out, v)
		}
	}
	if out == nil {
		return nil, fail(KeyState, "no version of the key may be used with its public half now")
	}
	return out, nil
}

// publicPEM answers with the primary version's public half first, so that tools that read one block read that.
func (c *Call) publicPEM() error {
	vs, err := c.publicKeys()
	if err != nil {
		return err
	}
	c.http.SetContentType("application/x-pem-file")
	for _, v := range vs {
		c.out = append(c.out, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: v.Public})...)
	}
	return nil
}

// jwk is a JSON Web Key (RFC 7517) of a signature key; RFC 8037 for Ed25519.
type jwk struct {
	Kty string `json:"kty"`
	Use string `json:"use"`
	Kid string `json:"kid"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

func (c *Call) jwks() error {
	vs, err := c.publicKeys()
	if err != nil {
		return err
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, v := range vs {
		pk, err := poolKey(v)
		if err != nil {
			return err
		}
		j := jwk{Use: "sig", Kid: thumbprint(v)}
		if v.Usages&key.Sign == 0 {
			j.Use = "enc"
		}
		enc := base64.RawURLEncoding.EncodeToString
		switch p := pk.Public.(type) {
		case *rsa.PublicKey:
			j.Kty, j.N, j.E = "RSA", enc(p.N.Bytes()), enc(big.NewInt(int64(p.E)).Bytes())
		case *ecdsa.PublicKey:
			raw, err := p.Bytes() // 4 ‖ x ‖ y
			if err != nil {
				return err
			}
			n := (len(raw) - 1) / 2
			j.Kty, j.Crv, j.X, j.Y = "EC", p.Params().Name, enc(raw[1:1+n]), enc(raw[1+n:])
		case ed25519.PublicKey:
			j.Kty, j.Crv, j.X = "OKP", "Ed25519", enc(p)
		default:
			return errors.New("a public key of an unknown kind")
		}
		set.Keys = append(set.Keys, j)
	}
	b, err := json.Marshal(set)
	c.out = append(c.out, b...)
	return err
}

// thumbprint names a public key in a JWKS: the key's name, the version, and the beginning of the SHA-256 of its SubjectPublicKeyInfo.
func thumbprint(v *key.Version) string {
	h := sha256.Sum256(v.Public)
	return v.Name + ":" + strconv.FormatUint(uint64(v.Number), 10) + ":" + base64.RawURLEncoding.EncodeToString(h[:12])
}
