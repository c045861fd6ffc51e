package gateway

import (
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// maxRandom is how many random bytes one call may ask for.
const maxRandom = 1024

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
		c.secretMember("plaintext_key", fresh)
	}
	return c.closing(nil)
}

func (c *Call) random() error {
	if n := c.req.Bytes; n < 1 || n > maxRandom {
		return fail(Malformed, "bytes: from 1 to %d", maxRandom)
	}
	p, ok := c.s.cfg.Pools(c.s.cfg.DefaultPool)
	if !ok {
		return &Error{Kind: Unavailable, Detail: "no pool serves random bytes here", RetryAfter: 10 * time.Second}
	}
	out, err := p.Do(c.ctx, nil, hsm.Op{Kind: hsm.OpRandom, Len: c.req.Bytes})
	if err != nil {
		return err
	}
	c.secretMember("random", out)
	c.out[0] = '{' // where members after others have a comma
	c.out = append(c.out, '}')
	clear(out)
	return nil
}
