package gateway

import (
	"bytes"
	"strings"

	"github.com/valyala/fasthttp"
)

const (
	keysPrefix = "/api/v1/keys/"
	keysShape  = keysPrefix + "{key}"
)

const signFields = fMessage | fDigest | fHash | fPadding | fEncoding | fVersion

// table makes the routes.
func (s *Server) table() []*Route {
	one, op := s.cfg.MaxBody, s.cfg.OpTimeout
	rows := []*Route{
		{Method: "POST", Path: keysShape + "/sign", Takes: signFields, Handle: (*Call).sign},
		{Method: "POST", Path: keysShape + "/verify", Takes: signFields | fSignature, Handle: (*Call).verify},
		{Method: "POST", Path: keysShape + "/encrypt", Takes: fPlaintext | fAAD | fHash | fVersion, Handle: (*Call).encrypt},
		{Method: "POST", Path: keysShape + "/decrypt", Takes: fCiphertext | fAAD | fHash | fVersion, Handle: (*Call).decrypt},
		{Method: "POST", Path: keysShape + "/wrap", Takes: fPlaintextKey | fAAD | fFormat | fHash | fVersion, Handle: (*Call).wrap},
		{Method: "POST", Path: keysShape + "/unwrap", Takes: fWrapped | fAAD | fFormat | fHash | fVersion, Handle: (*Call).unwrap},
		{Method: "POST", Path: keysShape + "/rewrap", Takes: fCiphertext | fWrapped | fAAD | fHash | fVersion, Handle: (*Call).rewrap},
		{Method: "POST", Path: keysShape + "/mac", Takes: fMessage | fVersion, Handle: (*Call).mac},
		{Method: "POST", Path: keysShape + "/mac/verify", Takes: fMessage | fMAC | fVersion, Handle: (*Call).macVerify},
		{Method: "POST", Path: keysShape + "/datakey", Takes: fBits | fAAD | fHash | fWantPlain | fVersion, Handle: (*Call).datakey},
		{Method: "POST", Path: "/api/v1/random", Takes: fBytes, Handle: (*Call).random},
		{Method: "POST", Path: "/api/v1/batch", MaxBody: batchBodies * one, Timeout: 6 * op, Many: true, Handle: (*Call).batch},
		{Method: "GET", Path: keysShape, Handle: (*Call).describe},
		{Method: "GET", Path: keysShape + "/public.pem", Handle: (*Call).publicPEM},
		{Method: "GET", Path: keysShape + "/jwks.json", Handle: (*Call).jwks},
		{Method: "GET", Path: "/api/v1/openapi.json", Open: true, Handle: (*Call).openAPI},
		{Method: "GET", Path: "/healthz", Open: true, Handle: (*Call).healthz},
		{Method: "GET", Path: "/readyz", Open: true, Handle: (*Call).readyz},
	}
	for _, r := range rows {
		setDefault(&r.MaxBody, one)
		setDefault(&r.Timeout, op)
	}
	return rows
}

// batchBodies is how many times the largest body of one operation a batch may have.
const batchBodies = 16

// noRoute stands for whatever is none. It takes no identity, since there is nothing to protect, and no body.
func (s *Server) noRoute() *Route {
	return &Route{Path: "unknown", Open: true, MaxBody: strangerBody, Timeout: s.cfg.OpTimeout}
}

// index arranges routes by path and method, HEAD with GET.
func index(rows []*Route) map[string]map[string]*Route {
	t := map[string]map[string]*Route{}
	for _, r := range rows {
		if t[r.Path] == nil {
			t[r.Path] = map[string]*Route{}
		}
		t[r.Path][r.Method] = r
		if r.Method == "GET" {
			t[r.Path]["HEAD"] = r
		}
	}
	return t
}

// target returns the path of a request target, as it was sent.
func target(uri []byte) []byte {
	if len(uri) > 0 && uri[0] != '/' { // the absolute form, as to a proxy
		if i := bytes.Index(uri, []byte("://")); i >= 0 {
			uri = uri[i+3:]
			if i = bytes.IndexByte(uri, '/'); i < 0 {
				return []byte{'/'}
			}
			uri = uri[i:]
		}
	}
	if i := bytes.IndexAny(uri, "?#"); i >= 0 {
		uri = uri[:i]
	}
	return uri
}

// match returns the route of a request and the name of its key. Where there is none it returns the unknown route and the error
// to answer with. Paths are compared as they were sent, neither decoded nor cleaned: what a proxy
// in front of us took for one key must not be another one here, and no name needs an escape.
func (s *Server) match(h *fasthttp.RequestHeader) (*Route, string, *Error) {
	path := target(h.RequestURI())
	name := ""
	var buf [64]byte
	shape := path
	if rest, ok := bytes.CutPrefix(path, []byte(keysPrefix)); ok {
		n, call := rest, []byte(nil)
		if i := bytes.IndexByte(rest, '/'); i >= 0 {
			n, call = rest[:i], rest[i:]
		}
		name = keyName(n)
		shape = append(append(buf[:0], keysShape...), call...)
	}
	methods := s.routes[string(shape)]
	if r := methods[string(h.Method())]; r != nil {
		return r, name, nil
	}
	if methods == nil {
		return s.unknown, "", fail(NotFound, "there is no such path; /api/v1/openapi.json tells which there are")
	}
	return s.unknown, "", &Error{Kind: Malformed, Detail: "this path takes " + allow(methods) + " and no other method", allow: allow(methods)}
}

func allow(methods map[string]*Route) string {
	var out []string
	for _, m := range []string{"GET", "HEAD", "POST"} {
		if methods[m] != nil {
			out = append(out, m)
		}
	}
	return strings.Join(out, ", ")
}

// keyName returns n if it can be a key's name, "" otherwise: key.CheckName without its regular expression, which would cost
// more than all else on the way of a request.
func keyName(n []byte) string {
	for _, c := range n {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return ""
		}
	}
	s := string(n)
	if len(s) == 0 || len(s) > 128 || !alphanumeric(s[0]) || !alphanumeric(s[len(s)-1]) {
		return ""
	}
	return s
}

func alphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
