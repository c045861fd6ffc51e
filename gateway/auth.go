package gateway

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"keyway/lifecycle/key"
)

var bearer = []byte("Bearer ")

// authenticate finds out who asks, by token or by verified certificate, and counts the request against the client's rate.
func (c *Call) authenticate() error {
	c.dir = c.s.cfg.Directory()
	if h := c.http.Request.Header.Peek("Authorization"); len(h) > 0 {
		token, ok := bytes.CutPrefix(h, bearer)
		if !ok {
			return fail(Unauthenticated, "Authorization must be Bearer and a token")
		}
		if c.client, ok = c.dir.ByToken(string(token)); !ok {
			return fail(Unauthenticated, "the token is not known, or no longer")
		}
	} else if st := c.http.TLSConnectionState(); st != nil && len(st.VerifiedChains) > 0 {
		var ok bool
		if c.client, ok = c.dir.ByCert(st.VerifiedChains[0][0].RawSubjectPublicKeyInfo); !ok {
			return fail(Unauthenticated, "the certificate's key belongs to no client")
		}
	} else {
		return fail(Unauthenticated, "send Authorization: Bearer and a token, or a client certificate")
	}
	return c.throttle(1)
}

// throttle counts n operations against the client's own rate.
func (c *Call) throttle(n int) error {
	if c.client.Rate <= 0 {
		return nil
	}
	l := c.s.limits.of(c.client)
	r := l.ReserveN(time.Now(), n)
	if !r.OK() {
		return fail(Throttled, "%d operations at once are more than the client's burst of %d", n, l.Burst())
	}
	if d := r.Delay(); d > 0 {
		r.Cancel()
		return &Error{Kind: Throttled, Detail: fmt.Sprintf("the client may start %g operations a second", c.client.Rate), RetryAfter: d}
	}
	return nil
}

// limits holds a limiter for each client that has a rate. There are as many as clients, which operators make.
type limits struct {
	m sync.Map // name → *rate.Limiter
}

func (l *limits) of(c *key.Client) *rate.Limiter {
	burst := c.Burst
	if burst == 0 {
		burst = max(1, int(c.Rate))
	}
	v, ok := l.m.Load(c.Name)
	if !ok {
		v, _ = l.m.LoadOrStore(c.Name, rate.NewLimiter(rate.Limit(c.Rate), burst))
	}
	lim := v.(*rate.Limiter)
	if lim.Limit() != rate.Limit(c.Rate) || lim.Burst() != burst { // an operator changed it
		lim.SetLimit(rate.Limit(c.Rate))
		lim.SetBurst(burst)
	}
	return lim
}

// use finds the version of a call's key and checks that the client and the version's state and dates allow u, in this order:
// a client must not learn about keys it may not see.
func (c *Call) use(version uint32, u key.Usage) (*loaded, error) {
	if err := c.may(u); err != nil {
		return nil, err
	}
	v, err := c.s.cache.key(c.ctx, key.Ref{Name: c.name, Version: version})
	if err != nil {
		return nil, err
	}
	return v, v.Permits(u, time.Now())
}

// may checks the client's grants.
func (c *Call) may(u key.Usage) error {
	granted := c.dir.Allowed(c.client, c.name)
	if granted == 0 {
		return key.ErrNotFound
	}
	if !granted.Has(u) {
		return fail(Forbidden, "this client may use the key for %s, not for %s", granted, u)
	}
	return nil
}

// crypto returns the pool of a version.
func (c *Call) crypto(v *loaded) (Crypto, error) {
	p, ok := c.s.cfg.Pools(v.Pool)
	if !ok {
		return nil, &Error{Kind: Unavailable, Detail: "the key's pool is not served here", RetryAfter: 10 * time.Second}
	}
	return p, nil
}
