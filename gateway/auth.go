package gateway

import (
	"bytes"
	"time"

	"github.com/valyala/fasthttp"

	"keyway/lifecycle/key"
)

// bearer returns the token of an Authorization header; ok is false for one of another scheme.
func bearer(h []byte) (token []byte, ok bool) {
	const scheme = "Bearer "
	if len(h) <= len(scheme) || !bytes.EqualFold(h[:len(scheme)], []byte(scheme)) {
		return nil, false
	}
	return bytes.TrimLeft(h[len(scheme):], " "), true
}

// authenticate finds out who asks, by token or by verified certificate. It asks the directory at each
// request, so a client that was removed is refused on connections it has open.
func (c *Call) authenticate() *Error {
	c.dir = c.s.cfg.Directory()
	if h := c.http.Request.Header.Peek(fasthttp.HeaderAuthorization); len(h) > 0 {
		token, ok := bearer(h)
		if !ok {
			return fail(Unauthenticated, "Authorization must be Bearer and a token")
		}
		if c.client, ok = c.dir.ByToken(string(token)); !ok {
			return fail(Unauthenticated, "the token is not known, or no longer")
		}
		return nil
	}
	spki := c.conn.verifiedKey()
	if spki == nil {
		return fail(Unauthenticated, "send Authorization: Bearer and a token, or a client certificate")
	}
	var ok bool
	if c.client, ok = c.dir.ByCert(spki); !ok {
		return fail(Unauthenticated, "the certificate's key belongs to no client")
	}
	return nil
}

// strange reports whether the headers alone show that the request cannot be authenticated. A certificate does not show in them.
func (s *Server) strange(h *fasthttp.RequestHeader) bool {
	a := h.Peek(fasthttp.HeaderAuthorization)
	if len(a) == 0 {
		return s.cfg.TLS == nil || s.cfg.TLS.ClientCAFile == ""
	}
	token, ok := bearer(a)
	if ok {
		_, ok = s.cfg.Directory().ByToken(string(token))
	}
	return !ok
}

// strangerBody is how large a body may be, in bytes, before it is known whose it is.
const strangerBody = 64 << 10

// admit bounds a body before it is read: fasthttp sets memory aside for all of it at once.
func (s *Server) admit(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if n := h.ContentLength(); n >= 0 && n <= strangerBody || n == -2 { // -2: there is no body; -1: its length is not said
		return fasthttp.RequestConfig{}
	}
	route, _, _ := s.match(h)
	if !route.Open && s.strange(h) {
		return fasthttp.RequestConfig{MaxRequestBodySize: min(route.MaxBody, strangerBody)}
	}
	return fasthttp.RequestConfig{MaxRequestBodySize: route.MaxBody}
}

// use finds the version of a call's key and checks that the client and the version's state and dates allow u, in this order:
// a client must not learn about keys it may not see.
func (c *Call) use(version uint32, u key.Usage) (*loaded, error) {
	if err := c.may(u); err != nil {
		return nil, err
	}
	v, err := c.s.cache.version(c.ctx, key.Ref{Name: c.name, Version: version})
	if err != nil {
		return nil, err
	}
	return v, v.Permits(u, c.now)
}

// may checks the client's grants.
func (c *Call) may(u key.Usage) error {
	granted := c.dir.Allowed(c.client, c.name)
	if granted == 0 || c.name == "" {
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
