package gateway

import (
	"fmt"
	"slices"
	"strconv"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// maxTried is how many versions are tried where the request names none and the input does not tell.
const maxTried = 8

// candidates returns the versions that may be used for u now, the primary one first, then newest first: the one that the
// request names, else at most maxTried.
func (c *Call) candidates(u key.Usage) ([]uint32, error) {
	if c.req.Version != 0 {
		return []uint32{c.req.Version}, nil
	}
	if err := c.may(u); err != nil {
		return nil, err
	}
	k, err := c.s.cache.describe(c.ctx, c.name)
	if err != nil {
		return nil, err
	}
	var out []uint32
	why := fmt.Errorf("%w: %s has no version", key.ErrState, k.Name)
	for _, v := range newestFirst(k) {
		if err := v.Permits(u, c.now); err != nil {
			why = err
		} else if out = append(out, v.Number); len(out) == maxTried {
			break
		}
	}
	if out == nil {
		return nil, why
	}
	return out, nil
}

// newestFirst returns a key's versions, the primary one before all others. The caller owns the slice.
func newestFirst(k *key.Key) []*key.Version {
	out := slices.Clone(k.Versions)
	slices.Reverse(out)
	if i := slices.IndexFunc(out, func(v *key.Version) bool { return v.Number == k.Primary }); i > 0 {
		v := out[i]
		copy(out[1:], out[:i])
		out[0] = v
	}
	return out
}

// openWith runs an opening operation with each version that may, until one opens.
func (c *Call) openWith(u key.Usage, op func(*loaded, Crypto) (hsm.Op, error)) ([]byte, *loaded, error) {
	numbers, err := c.candidates(u)
	if err != nil {
		return nil, nil, err
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

// tryVersions answers valid with the first version for which ok says so.
func (c *Call) tryVersions(u key.Usage, ok func(*loaded) (bool, error)) error {
	numbers, err := c.candidates(u)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		v, err := c.use(n, u)
		if err != nil {
			return err
		}
		valid, err := ok(v)
		if err != nil {
			return err
		}
		if valid {
			return c.valid(true, n)
		}
	}
	return c.valid(false, numbers[0])
}

func (c *Call) valid(ok bool, version uint32) error {
	c.out = append(c.out, `{"valid":`...)
	c.out = strconv.AppendBool(c.out, ok)
	c.out = append(c.out, `,"version":`...)
	c.out = appendUint(c.out, version)
	c.out = append(c.out, '}')
	return nil
}

func appendUint(b []byte, n uint32) []byte { return strconv.AppendUint(b, uint64(n), 10) }
