package gateway

import (
	"bytes"
	"strings"

	"github.com/valyala/fasthttp"
)

const keysPrefix = "/api/v1/keys/"

const signFields = fMessage | fDigest | fHash | fPadding | fEncoding | fVersion

// table makes the routes, by method and path with the key's name left out.
func (s *Server) table() map[string]*Route {
	one, op := s.cfg.MaxBody, s.cfg.OpTimeout
	// Whatever is no route is measured as one.
	s.unknown = &Route{Method: "-", Path: "unknown", Timeout: op}
	s.unknown.metric = newMeasure(s.unknown)
	rows := []Route{
		{Method: "POST", Path: "/api/v1/keys/{key}/sign", Takes: signFields, Handle: (*Call).sign},
		{Method: "POST", Path: "/api/v1/keys/{key}/verify", Takes: signFields | fSignature, Handle: (*Call).verify},
		{Method: "POST", Path: "/api/v1/keys/{key}/encrypt", Takes: fPlaintext | fAAD | fHash | fVersion, Handle: (*Call).encrypt},
		{Method: "POST", Path: "/api/v1/keys/{key}/decrypt", Takes: fCiphertext | fAAD | fHash | fVersion, Handle: (*Call).decrypt},
		{Method: "POST", Path: "/api/v1/keys/{key}/wrap", Takes: fPlaintextKey | fAAD | fFormat | fHash | fVersion, Handle: (*Call).wrap},
		{Method: "POST", Path: "/api/v1/keys/{key}/unwrap", Takes: fWrapped | fAAD | fFormat | fHash | fVersion, Handle: (*Call).unwrap},
		{Method: "POST", Path: "/api/v1/keys/{key}/rewrap", Takes: fCiphertext | fWrapped | fAAD, Handle: (*Call).rewrap},
		{Method: "POST", Path: "/api/v1/keys/{key}/mac", Takes: fMessage | fVersion, Handle: (*Call).mac},
		{Method: "POST", Path: "/api/v1/keys/{key}/mac/verify", Takes: fMessage | fMAC | fVersion, Handle: (*Call).macVerify},
		{Method: "POST", Path: "/api/v1/keys/{key}/datakey", Takes: fBits | fAAD | fWantPlain | fPlaintext | fVersion, Handle: (*Call).datakey},
		{Method: "POST", Path: "/api/v1/random", Takes: fBytes, Handle: (*Call).random},
		{Method: "POST", Path: "/api/v1/batch", MaxBody: 16 * one, Timeout: 6 * op, Handle: (*Call).batch},
		{Method: "GET", Path: "/api/v1/keys/{key}", Handle: (*Call).describe},
		{Method: "GET", Path: "/api/v1/keys/{key}/public.pem", Handle: (*Call).publicPEM},
		{Method: "GET", Path: "/api/v1/keys/{key}/jwks.json", Handle: (*Call).jwks},
		{Method: "GET", Path: "/api/v1/openapi.json", Open: true, Handle: (*Call).openAPI},
		{Method: "GET", Path: "/healthz", Open: true, Handle: (*Call).healthz},
		{Method: "GET", Path: "/readyz", Open: true, Handle: (*Call).readyz},
	}
	t := map[string]*Route{}
	for i := range rows {
		r := &rows[i]
		setDefault(&r.MaxBody, one)
		setDefault(&r.Timeout, op)
		r.metric = newMeasure(r)
		t[r.Method+" "+r.Path] = r
	}
	return t
}

// find returns the route of a request and the name of its key. Where there is none it
// returns the unknown route and the error to answer with.
func (s *Server) find(h *fasthttp.RequestCtx) (*Route, string, error) {
	path, method := h.Path(), string(h.Method())
	var name string
	var buf [96]byte
	shape := buf[:0]
	if rest, ok := bytes.CutPrefix(path, []byte(keysPrefix)); ok {
		n := rest
		op := []byte(nil)
		if i := bytes.IndexByte(rest, '/'); i >= 0 {
			n, op = rest[:i], rest[i:]
		}
		name = string(n)
		shape = append(append(append(shape, keysPrefix...), "{key}"...), op...)
	} else {
		shape = append(shape, path...)
	}
	var key [128]byte
	if r := s.routes[string(append(append(append(key[:0], method...), ' '), shape...))]; r != nil {
		return r, name, nil
	}
	var allowed []string
	for _, m := range []string{"GET", "POST"} {
		if s.routes[m+" "+string(shape)] != nil {
			allowed = append(allowed, m)
		}
	}
	if allowed != nil {
		h.Response.Header.Set("Allow", strings.Join(allowed, ", "))
		return s.unknown, "", fail(Malformed, "%s takes %s, not %s", shape, strings.Join(allowed, ", "), printable([]byte(method)))
	}
	return s.unknown, "", fail(NotFound, "there is no such path; %s tells which there are", "/api/v1/openapi.json")
}
