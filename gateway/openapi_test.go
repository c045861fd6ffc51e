package gateway

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// description is the served document with its schemas compiled.
type description struct {
	doc     map[string]any
	mu      sync.Mutex
	c       *jsonschema.Compiler
	schemas map[string]*jsonschema.Schema
}

var theDescription = sync.OnceValue(func() *description {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openAPIDocument))
	if err != nil {
		panic(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.json", doc); err != nil {
		panic(err)
	}
	return &description{doc: doc.(map[string]any), c: c, schemas: map[string]*jsonschema.Schema{}}
})

// at follows a path of members, and references on the way.
func (d *description) at(v any, path ...string) any {
	for _, p := range path {
		m, ok := d.follow(v).(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return d.follow(v)
}

func (d *description) follow(v any) any {
	for {
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		ref, ok := m["$ref"].(string)
		if !ok {
			return v
		}
		v = d.at(d.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
}

// fits validates JSON against the schema that a media type object refers to.
func (d *description) fits(media any, text []byte) error {
	ref, _ := d.at(media).(map[string]any)["schema"].(map[string]any)["$ref"].(string)
	if ref == "" {
		return nil // no more than a type
	}
	d.mu.Lock()
	s := d.schemas[ref]
	if s == nil {
		var err error
		if s, err = d.c.Compile("openapi.json" + ref); err != nil {
			d.mu.Unlock()
			return err
		}
		d.schemas[ref] = s
	}
	d.mu.Unlock()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// path is a request's path as the document writes it.
func documented(path string) string {
	path, _, _ = strings.Cut(path, "?")
	if rest, ok := strings.CutPrefix(path, keysPrefix); ok {
		_, op, more := strings.Cut(rest, "/")
		if path = keysShape; more {
			path += "/" + op
		}
	}
	return path
}

// hold holds a request and its answer against the document: what was taken must be allowed there, and what was answered
// must be described there, by status, type, headers and schema. Every test's requests go through it.
func (d *description) hold(method, path, body string, a answer) error {
	paths := d.doc["paths"].(map[string]any)
	op := d.at(paths[documented(path)], strings.ToLower(method))
	media, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	if op == nil { // a path or a method that there is not: the answer is a problem all the same
		if a.status == 200 || method == "HEAD" {
			return nil
		}
		return d.fits(d.at(d.doc, "components", "responses", fmt.Sprintf("Problem%d", a.status), "content", media), []byte(a.raw))
	}
	res, ok := d.at(op, "responses", fmt.Sprint(a.status)).(map[string]any)
	if !ok {
		return fmt.Errorf("%s %s: status %d is not described", method, path, a.status)
	}
	content := d.at(res, "content", media)
	if content == nil {
		return fmt.Errorf("%s %s: an answer of type %q with status %d is not described", method, path, media, a.status)
	}
	if headers, ok := res["headers"].(map[string]any); ok {
		for name, h := range headers {
			if required, _ := d.at(h, "required").(bool); required && a.header.Get(name) == "" {
				return fmt.Errorf("%s %s: %d without %s", method, path, a.status, name)
			}
		}
	}
	if strings.HasSuffix(media, "json") {
		if err := d.fits(content, []byte(a.raw)); err != nil {
			return fmt.Errorf("%s %s: the answer %.300s: %w", method, path, a.raw, err)
		}
	}
	if request := d.at(op, "requestBody", "content", "application/json"); request != nil && a.status == 200 && documented(path) != "/api/v1/batch" {
		if err := d.fits(request, []byte(body)); err != nil {
			return fmt.Errorf("%s %s: the request was taken and is not described: %.300s: %w", method, path, body, err)
		}
	}
	return nil
}

func TestTheDocumentHasEveryRouteAndNoOther(t *testing.T) {
	g, d := newGate(t, nil), theDescription()
	routes := map[string]*Route{}
	for _, r := range g.s.rows {
		routes[r.Method+" "+r.Path] = r
	}
	described := map[string]bool{}
	for path, item := range d.doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if method == "parameters" {
				continue
			}
			name := strings.ToUpper(method) + " " + path
			described[name] = true
			r := routes[name]
			if r == nil {
				t.Errorf("the document has %s, the server has not", name)
				continue
			}
			if security, ok := op.(map[string]any)["security"].([]any); (ok && len(security) == 0) != r.Open {
				t.Errorf("%s: open %v, and the document says security %v", name, r.Open, security)
			}
			if has := strings.Contains(path, "{key}"); has != (d.at(item, "parameters") != nil) {
				t.Errorf("%s: its parameters are %v", name, d.at(item, "parameters"))
			}
		}
	}
	for name := range routes {
		if !described[name] {
			t.Errorf("the server has %s, the document has not", name)
		}
	}
	if a := g.send("GET", "/api/v1/openapi.json", ""); a.raw != string(openAPIDocument) || a.body["openapi"] != "3.1.0" {
		t.Error("what is served is another document")
	}
}

// names returns the names of fields.
func (f field) names() (out []string) {
	if f&fWantPlain != 0 {
		f |= fPlaintext
	}
	for _, r := range fieldTable {
		if f&r.f != 0 {
			out = append(out, r.name)
		}
	}
	slices.Sort(out)
	return out
}

func TestTheDocumentHasEveryFieldAndNoOther(t *testing.T) {
	g, d := newGate(t, nil), theDescription()
	properties := func(schema any) []string {
		p, _ := d.at(schema, "properties").(map[string]any)
		return slices.Sorted(maps.Keys(p))
	}
	for _, r := range g.s.rows {
		schema := d.at(d.doc["paths"].(map[string]any)[r.Path], strings.ToLower(r.Method), "requestBody", "content", "application/json", "schema")
		if r.Many {
			continue
		}
		if got, want := properties(schema), r.Takes.names(); !slices.Equal(got, want) {
			t.Errorf("%s takes %v, and the document says %v", r.Path, want, got)
		}
	}
	ops := d.at(d.doc, "components", "schemas", "BatchRequest", "properties", "operations", "items", "oneOf").([]any)
	for _, o := range ops {
		op := d.at(o, "properties", "op", "const").(string)
		r := g.s.operation(op)
		if r == nil {
			t.Errorf("the document has operation %s, the server has not", op)
			continue
		}
		want := (r.Takes | fID | fOp | fKey).names()
		if op == "random" {
			want = (r.Takes | fID | fOp).names()
		}
		if got := properties(o); !slices.Equal(got, want) {
			t.Errorf("operation %s takes %v, and the document says %v", op, want, got)
		}
	}
	n := 0
	for _, r := range g.s.rows {
		if r.Takes != 0 {
			n++
		}
	}
	if len(ops) != n {
		t.Errorf("the document has %d operations of a batch, the server %d", len(ops), n)
	}
}

func TestTheDocumentHoldsTogether(t *testing.T) {
	d := theDescription()
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && d.follow(v) == nil {
				t.Errorf("%s refers to %s, which there is not", at, ref)
			}
			for k, m := range v {
				walk(at+"/"+k, m)
			}
		case []any:
			for i, m := range v {
				walk(fmt.Sprint(at, "/", i), m)
			}
		}
	}
	walk("#", d.doc)
	for name := range d.at(d.doc, "components", "schemas").(map[string]any) {
		if _, err := d.c.Compile("openapi.json#/components/schemas/" + name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var kindsThere []string
	for _, k := range d.at(d.doc, "components", "schemas", "Problem", "properties", "kind", "enum").([]any) {
		kindsThere = append(kindsThere, k.(string))
	}
	for k, row := range kinds {
		if !slices.Contains(kindsThere, string(k)) || d.at(d.doc, "components", "responses", fmt.Sprintf("Problem%d", row.status)) == nil {
			t.Errorf("the document does not know %s (%d)", k, row.status)
		}
	}
	if len(kindsThere) != len(kinds) {
		t.Errorf("the document knows %v", kindsThere)
	}
	// The validator sees what is wrong.
	media := d.at(d.doc["paths"].(map[string]any)[keysShape+"/sign"], "post", "requestBody", "content", "application/json")
	for body, ok := range map[string]bool{`{"message":"aGk="}`: true, `{"message":"aGk=","bogus":1}`: false, `{"message":"aGk"}`: false, `{"message":"aGk=","digest":"aGk="}`: false,
		`{}`: false, `{"message":"aGk=","hash":"md5"}`: false, `{"message":"aGk=","version":-1}`: false} {
		if err := d.fits(media, []byte(body)); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// Every call, and every kind of failure, is answered as the document says (each exchange of every test is held against it; here
// it is made sure that there is one of each).
func TestEveryCallAndEveryErrorFitsTheDocument(t *testing.T) {
	g := newGate(t, func(c *Config) { c.OpTimeout = 100 * time.Millisecond })
	seen := map[string]bool{}
	ok := func(method, path, body string) answer {
		t.Helper()
		a := g.send(method, path, body)
		if a.status != 200 {
			t.Errorf("%s %s: %d %s", method, path, a.status, a.raw)
		}
		seen[method+" "+documented(path)] = true
		return a
	}
	key1 := func(name, op, format string, a ...any) map[string]any {
		t.Helper()
		return ok("POST", keysPrefix+name+"/"+op, fmt.Sprintf(format, a...)).body
	}
	sig := key1("k-sign", "sign", `{"message":"aGk=","hash":"sha2-256","encoding":"p1363"}`)["signature"]
	key1("k-rsa", "sign", `{"digest":%q,"hash":"sha2-512","padding":"pss","version":1}`, b64(strings.Repeat("x", 64)))
	key1("k-sign", "verify", `{"message":"aGk=","signature":%q,"encoding":"p1363"}`, sig)
	for _, k := range []string{"k-wrap", "k-oaep"} {
		e := key1(k, "encrypt", `{"plaintext":"aGk="}`)["ciphertext"]
		key1(k, "decrypt", `{"ciphertext":%q}`, e)
		key1(k, "rewrap", `{"ciphertext":%q}`, e)
		w := key1(k, "wrap", `{"plaintext_key":%q}`, b64("0123456789abcdef"))["wrapped"]
		key1(k, "unwrap", `{"wrapped":%q,"version":1}`, w)
		key1(k, "rewrap", `{"wrapped":%q}`, w)
		key1(k, "datakey", `{"bits":128,"plaintext":true}`)
	}
	kw := key1("k-wrap", "wrap", `{"plaintext_key":%q,"format":"aes-kw"}`, b64("0123456789abcdef"))["wrapped"]
	key1("k-wrap", "unwrap", `{"wrapped":%q,"format":"aes-kw"}`, kw)
	m := key1("k-mac", "mac", `{"message":"aGk="}`)["mac"]
	key1("k-mac", "mac/verify", `{"message":"aGk=","mac":%q}`, m)
	ok("POST", "/api/v1/random", `{"bytes":32}`)
	batch := fmt.Sprintf(`{"operations":[{"op":"sign","key":"k-sign","message":"aGk="},{"id":7,"op":"verify","key":"k-sign","message":"aGk=","signature":%q,"encoding":"p1363"},
		{"id":"x","op":"datakey","key":"k-wrap","plaintext":true},{"op":"rewrap","key":"k-wrap","ciphertext":%q},{"op":"mac","key":"k-none","message":"aGk="},{"op":"random","bytes":1}]}`,
		sig, key1("k-wrap", "encrypt", `{"plaintext":"aGk="}`)["ciphertext"])
	ok("POST", "/api/v1/batch", batch)
	if err := theDescription().fits(theDescription().at(theDescription().doc["paths"].(map[string]any)["/api/v1/batch"], "post", "requestBody", "content", "application/json"), []byte(batch)); err != nil {
		t.Error(err)
	}
	g.rotate("k-sign")
	g.shelf.change("k-sign", func(k *key.Key) {
		k.Versions[1].NotBefore, k.Versions[1].OriginatorEnd, k.Versions[1].RecipientEnd = time.Unix(1, 0), time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	})
	for _, p := range []string{keysPrefix + "k-sign", keysPrefix + "k-sign/public.pem", keysPrefix + "k-sign/jwks.json", "/api/v1/openapi.json", "/healthz", "/readyz"} {
		ok("GET", p, "")
	}
	for _, k := range []string{"k-rsa", "k-ed", "k-p521", "k-oaep"} {
		ok("GET", keysPrefix+k+"/jwks.json", "")
	}
	for _, r := range g.s.rows {
		if !seen[r.Method+" "+r.Path] {
			t.Errorf("%s %s was never called", r.Method, r.Path)
		}
	}

	sign := func() answer { return g.key("k-sign", "sign", `{"message":"aGk="}`) }
	told := map[Kind]bool{}
	refuses := func(kind Kind, a answer) {
		t.Helper()
		g.refused(a, kind, "")
		told[kind] = true
	}
	refuses(Malformed, g.key("k-sign", "sign", `{}`))
	refuses(TooLarge, g.key("k-sign", "sign", strings.Repeat("x", 65<<10)))
	refuses(Forbidden, g.as(signToken, func() answer { return g.key("k-sign", "verify", `{"message":"aGk=","signature":""}`) }))
	refuses(Unauthenticated, g.as("kw_nobody", sign))
	refuses(NotFound, g.key("k-none", "sign", `{"message":"aGk="}`))
	refuses(WrongUsage, g.key("k-mac", "sign", `{"message":"aGk="}`))
	refuses(Rejected, g.key("k-wrap", "decrypt", `{"ciphertext":"kw1.aGkk"}`))
	refuses(KeyState, g.key("k-sign", "sign", `{"message":"aGk=","version":1}`))
	g.shelf.state("k-sign", 1, key.Destroyed)
	refuses(Gone, g.key("k-sign", "sign", `{"message":"aGk=","version":1}`))
	for kind, err := range map[Kind]error{
		Internal: errBoom, DeviceFailed: pool.ErrDevice, Overloaded: &pool.Refusal{Err: pool.ErrOverloaded}, Unavailable: &pool.Refusal{Err: pool.ErrUnavailable, RetryAfter: time.Minute}, Deadline: context.DeadlineExceeded,
	} {
		g.crypto.before = func(context.Context, hsm.Op) error { return err }
		refuses(kind, sign())
		ok("POST", "/api/v1/batch", `{"operations":[{"op":"mac","key":"k-mac","message":"aGk="}]}`)
	}
	g.crypto.before = nil
	throttled := answer{}
	for range 10 {
		if throttled = g.as(slowToken, sign); throttled.status != 200 {
			break
		}
	}
	refuses(Throttled, throttled)
	for k := range kinds {
		if !told[k] {
			t.Errorf("%s was never told", k)
		}
	}
}

// as does something with another token.
func (g *gate) as(token string, f func() answer) answer {
	old := g.token
	defer func() { g.token = old }()
	g.token = token
	return f()
}
