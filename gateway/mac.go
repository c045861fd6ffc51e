package gateway

import (
	"crypto/hmac"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

var macMechanisms = map[key.Algorithm]hsm.MechanismType{
	key.HMACSHA256: hsm.SHA256HMAC, key.HMACSHA384: hsm.SHA384HMAC, key.HMACSHA512: hsm.SHA512HMAC,
}

// computeMAC makes the MAC of the request's message with v.
func (c *Call) computeMAC(v *loaded) ([]byte, error) {
	m, ok := macMechanisms[v.Algorithm]
	if !ok {
		return nil, fail(WrongUsage, "a key of %s makes no MACs", v.Algorithm)
	}
	p, err := c.crypto(v)
	if err != nil {
		return nil, err
	}
	return p.Do(c.ctx, v.pool, hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: m}, In: c.req.Message})
}

func (c *Call) mac() error {
	if e := c.req.need(fMessage); e != nil {
		return e
	}
	v, err := c.use(c.req.Version, key.MAC)
	if err != nil {
		return err
	}
	m, err := c.computeMAC(v)
	if err != nil {
		return err
	}
	c.open(v)
	c.member("mac")
	c.out = stdBase64.AppendEncode(c.out, m)
	c.out = append(c.out, `"}`...)
	return nil
}

// macVerify makes the MAC again and compares. What it makes stays here: whoever may only verify must not learn it.
func (c *Call) macVerify() error {
	if e := c.req.need(fMessage | fMAC); e != nil {
		return e
	}
	return c.tryVersions(key.VerifyMAC, func(v *loaded) (bool, error) {
		m, err := c.computeMAC(v)
		defer clear(m)
		return err == nil && hmac.Equal(m, c.req.MAC), err
	})
}
