package keyway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"crypto"

	"keyway/gateway"
	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/pool"
)

// house is everything but processes and PKCS#11: store, custody, pool and gateway on embedded tokens.
type house struct {
	t       *testing.T
	url     string
	token   string
	manager *lifecycle.Manager
	cat     *lifecycle.Catalogue
	pool    *pool.Pool
	store   lifecycle.Store
	server  *gateway.Server
	log     *bytes.Buffer
}

type lockedWriter struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func newHouse(t *testing.T, change func(*gateway.Config)) *house {
	t.Helper()
	ctx := context.Background()
	h := &house{t: t, log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(&lockedWriter{b: h.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "keyway.db"))
	must(err)
	h.store = store
	t.Cleanup(func() { _ = store.Close() })
	opens := func(tok *soft.Token) func(context.Context) (hsm.Token, error) {
		return func(context.Context) (hsm.Token, error) { return unclosed{tok}, nil }
	}
	cp, err := pool.New(pool.Config{Name: "custody", Log: log})
	must(err)
	t.Cleanup(func() { _ = cp.Close() })
	must(cp.Add(pool.MemberConfig{Name: "custody", Open: opens(soft.New("custody")), Sessions: 2}))
	must(cp.Wait(ctx))
	custody := lifecycle.NewCustody(lifecycle.CustodyConfig{Token: cp, Store: store, AutoRoot: true, Log: log})
	must(custody.Init(ctx))
	kek, err := custody.EnsurePool(ctx, "default")
	must(err)
	h.pool, err = pool.New(pool.Config{Name: "default", Log: log})
	must(err)
	t.Cleanup(func() { _ = h.pool.Close() })
	for i := range 3 {
		name := fmt.Sprintf("m%d", i)
		must(h.pool.Add(pool.MemberConfig{Name: name, Open: opens(soft.New(name)), KEK: kek.ID[:], Provision: custody.Provision("default", name), Sessions: 4}))
	}
	must(h.pool.Wait(ctx))
	h.manager = lifecycle.NewManager(lifecycle.ManagerConfig{Store: store, Custody: custody, Log: log})
	h.token, err = h.manager.CreateClient(ctx, "test", key.Client{Name: "app"})
	must(err)
	_, err = h.manager.CreateGrant(ctx, "test", key.Grant{Client: "app", Pattern: "k-*", Usages: key.Originator | key.Recipient})
	must(err)
	for _, r := range []lifecycle.KeyRequest{
		{Name: "k-wrap", Algorithm: key.AES256}, {Name: "k-sign", Algorithm: key.ECP256}, {Name: "k-p521", Algorithm: key.ECP521}, {Name: "k-rsa", Algorithm: key.RSA2048},
		{Name: "k-oaep", Algorithm: key.RSA2048, Usages: key.Wrap | key.Unwrap | key.Encrypt | key.Decrypt}, {Name: "k-mac", Algorithm: key.HMACSHA256},
		{Name: "k-ed", Algorithm: key.Ed25519}, {Name: "other", Algorithm: key.AES256},
	} {
		_, err := h.manager.CreateKey(ctx, "test", r)
		must(err)
	}
	h.cat, err = lifecycle.NewCatalogue(ctx, lifecycle.CatalogueConfig{Store: store, Poll: 10 * time.Millisecond, Log: log})
	must(err)
	t.Cleanup(h.cat.Close)
	cfg := gateway.Config{
		Pools: func(n string) (gateway.Crypto, bool) { return h.pool, n == "default" }, DefaultPool: "default",
		Keys: h.cat, Uses: h.cat, Directory: h.cat.Directory, Log: log, MaxBody: 64 << 10, ReadTimeout: time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	h.server, err = gateway.New(cfg)
	must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	h.url = "http://" + l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = h.server.Shutdown(ctx)
		_ = l.Close()
		<-served
	})
	return h
}

// unclosed keeps a token in memory through its member's closing, as a real token keeps its objects.
type unclosed struct{ *soft.Token }

func (unclosed) Close() error { return nil }

// do sends a request with a body of its own words and returns the status and the decoded answer.
func (h *house) do(method, path, body string) (int, map[string]any) {
	h.t.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		out = map[string]any{"text": string(b)}
	}
	return res.StatusCode, out
}

// ok is do for a request that must succeed.
func (h *house) ok(path, format string, a ...any) map[string]any {
	h.t.Helper()
	status, out := h.do("POST", path, fmt.Sprintf(format, a...))
	if status != 200 {
		h.t.Fatalf("POST %s: %d %v", path, status, out)
	}
	return out
}

// refused is do for a request that must be refused.
func (h *house) refused(path, body string, status int, kind string) map[string]any {
	h.t.Helper()
	got, out := h.do("POST", path, body)
	if got != status || out["kind"] != kind {
		h.t.Errorf("POST %s %.80s: %d %v, want %d %s", path, body, got, out, status, kind)
	}
	return out
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func unb64(t *testing.T, v any) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(v.(string))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (h *house) public(name string) crypto.PublicKey {
	h.t.Helper()
	_, out := h.do("GET", "/api/v1/keys/"+name+"/public.pem", "")
	block, _ := pem.Decode([]byte(out["text"].(string)))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return pub
}

func TestEveryCallOfTheAPI(t *testing.T) {
	h := newHouse(t, nil)
	secret := strings.Repeat("0123456789abcdef", 2)
	for _, c := range []struct{ key, do, undo, in, out, extra string }{
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"aad":"YWFk"`},
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"aes-kw"`},
		{"k-wrap", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"aes-kwp"`},
		{"k-wrap", "encrypt", "decrypt", "plaintext", "ciphertext", ``},
		{"k-oaep", "wrap", "unwrap", "plaintext_key", "wrapped", `,"format":"rsa-oaep","hash":"sha2-256"`},
		{"k-oaep", "encrypt", "decrypt", "plaintext", "ciphertext", ``},
	} {
		a := h.ok("/api/v1/keys/"+c.key+"/"+c.do, `{%q:%q%s}`, c.in, b64(secret), c.extra)
		b := h.ok("/api/v1/keys/"+c.key+"/"+c.undo, `{%q:%q%s}`, c.out, a[c.out], c.extra)
		if string(unb64(t, b[c.in])) != secret {
			t.Errorf("%s%s: came back as %v", c.do, c.extra, b)
		}
	}
	msg := "hello"
	digest := sha256.Sum256([]byte(msg))
	sig := h.ok("/api/v1/keys/k-sign/sign", `{"message":%q}`, b64(msg))["signature"]
	if !ecdsa.VerifyASN1(h.public("k-sign").(*ecdsa.PublicKey), digest[:], unb64(t, sig)) {
		t.Error("the P-256 signature does not verify")
	}
	sig = h.ok("/api/v1/keys/k-rsa/sign", `{"digest":%q,"hash":"sha2-256","padding":"pkcs1v15"}`, b64(string(digest[:])))["signature"]
	if err := rsa.VerifyPKCS1v15(h.public("k-rsa").(*rsa.PublicKey), crypto.SHA256, digest[:], unb64(t, sig)); err != nil {
		t.Error(err)
	}
	sig = h.ok("/api/v1/keys/k-ed/sign", `{"message":%q}`, b64(msg))["signature"]
	if !ed25519.Verify(h.public("k-ed").(ed25519.PublicKey), []byte(msg), unb64(t, sig)) {
		t.Error("the Ed25519 signature does not verify")
	}
	for _, k := range []string{"k-sign", "k-p521", "k-rsa", "k-ed"} {
		s := h.ok("/api/v1/keys/"+k+"/sign", `{"message":%q}`, b64(msg))["signature"]
		if v := h.ok("/api/v1/keys/"+k+"/verify", `{"message":%q,"signature":%q}`, b64(msg), s); v["valid"] != true {
			t.Errorf("%s: own signature: %v", k, v)
		}
		if v := h.ok("/api/v1/keys/"+k+"/verify", `{"message":%q,"signature":%q}`, b64("other"), s); v["valid"] != false {
			t.Errorf("%s: another message: %v", k, v)
		}
	}
	p := h.ok("/api/v1/keys/k-sign/sign", `{"message":%q,"encoding":"p1363"}`, b64(msg))["signature"]
	if n := len(unb64(t, p)); n != 64 {
		t.Errorf("p1363 signature of %d bytes", n)
	}
	mac := h.ok("/api/v1/keys/k-mac/mac", `{"message":%q}`, b64(msg))["mac"]
	for m, want := range map[string]bool{msg: true, "x": false} {
		if v := h.ok("/api/v1/keys/k-mac/mac/verify", `{"message":%q,"mac":%q}`, b64(m), mac); v["valid"] != want {
			t.Errorf("mac of %q: %v", m, v)
		}
	}
	dk := h.ok("/api/v1/keys/k-wrap/datakey", `{"bits":128,"plaintext":true}`)
	un := h.ok("/api/v1/keys/k-wrap/unwrap", `{"wrapped":%q}`, dk["wrapped"])
	if un["plaintext_key"] != dk["plaintext_key"] || len(unb64(t, un["plaintext_key"])) != 16 {
		t.Errorf("datakey %v unwraps to %v", dk, un)
	}
	if n := len(unb64(t, h.ok("/api/v1/random", `{"bytes":48}`)["random"])); n != 48 {
		t.Errorf("%d random bytes", n)
	}
	w := h.ok("/api/v1/keys/k-wrap/wrap", `{"plaintext_key":%q}`, b64(secret))["wrapped"]
	if _, err := h.manager.Rotate(context.Background(), "test", "k-wrap"); err != nil {
		t.Fatal(err)
	}
	if err := h.cat.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	rw := h.ok("/api/v1/keys/k-wrap/rewrap", `{"wrapped":%q}`, w)
	if rw["version"] != 2.0 {
		t.Errorf("rewrapped under version %v", rw["version"])
	}
	for _, blob := range []any{w, rw["wrapped"]} {
		if got := h.ok("/api/v1/keys/k-wrap/unwrap", `{"wrapped":%q}`, blob); string(unb64(t, got["plaintext_key"])) != secret {
			t.Errorf("after rotation: %v", got)
		}
	}
	if status, k := h.do("GET", "/api/v1/keys/k-wrap", ""); status != 200 || k["primary_version"] != 2.0 {
		t.Errorf("metadata: %d %v", status, k)
	}
	if status, j := h.do("GET", "/api/v1/keys/k-sign/jwks.json", ""); status != 200 || len(j["keys"].([]any)) != 1 {
		t.Errorf("jwks: %d %v", status, j)
	}
	for _, path := range []string{"/healthz", "/readyz", "/api/v1/openapi.json"} {
		if status, out := h.do("GET", path, ""); status != 200 {
			t.Errorf("%s: %d %v", path, status, out)
		}
	}
}

func TestABatchAnswersInOrderAndOneBadItemFailsNobody(t *testing.T) {
	h := newHouse(t, nil)
	out := h.ok("/api/v1/batch", `{"operations":[
		{"id":"a","op":"sign","key":"k-sign","message":"aGk="},
		{"id":"b","op":"sign","key":"other","message":"aGk="},
		{"id":"c","op":"nonsense","key":"k-sign"},
		{"id":"d","op":"datakey","key":"k-wrap","plaintext":true},
		{"id":"e","op":"random","bytes":4},
		{"id":"f","op":"sign","key":"k-sign","bogus":1}]}`)
	want := []struct {
		id     string
		status float64
	}{{"a", 200}, {"b", 404}, {"c", 400}, {"d", 200}, {"e", 200}, {"f", 400}}
	results := out["results"].([]any)
	if len(results) != len(want) {
		t.Fatalf("%d results", len(results))
	}
	for i, w := range want {
		r := results[i].(map[string]any)
		if r["id"] != w.id || r["status"] != w.status {
			t.Errorf("result %d: %v, want %v", i, r, w)
		}
	}
}

func TestBadInputIsRefusedByName(t *testing.T) {
	h := newHouse(t, nil)
	k := "/api/v1/keys/k-sign/sign"
	for _, body := range []string{``, `[]`, `{`, `{"message":}`, `{"message":"aGk"}`, `{"message":"!!!!"}`, `{"message":"aGk=","bogus":"x"}`, `{"message":"aGk=","message":"aGk="}`,
		`{"message":"aGk="} x`, `{"digest":"aGk="}`, `{"message":"aGk=","digest":"aGk="}`, `{"message":"aGk=","hash":"md5"}`, `{"message":"aGk=","version":-1}`,
		`{"message":"aGk=","version":1.5}`, `{"message":"aGk=","padding":"pss"}`, `{}`} {
		h.refused(k, body, 400, "malformed")
	}
	if d := h.refused(k, `{"message":"aGk=","bogus":"x"}`, 400, "malformed")["detail"]; !strings.Contains(d.(string), "bogus") {
		t.Errorf("the unknown field is not named: %v", d)
	}
	h.refused(k, `{"message":"`+strings.Repeat("A", 64<<10)+`"}`, 413, "too_large")
	h.refused("/api/v1/keys/other/sign", `{"message":"aGk="}`, 404, "not_found")
	h.refused("/api/v1/keys/k-none/sign", `{"message":"aGk="}`, 404, "not_found")
	h.refused("/api/v1/keys/k-mac/sign", `{"message":"aGk="}`, 422, "usage")
	h.refused("/api/v1/nothing", `{}`, 404, "not_found")
	h.refused("/api/v1/random", `{"bytes":0}`, 400, "malformed")
	h.refused("/api/v1/random", `{"bytes":1025}`, 400, "malformed")
	good := h.token
	h.token = "kw_nobody"
	h.refused(k, `{"message":"aGk="}`, 401, "unauthenticated")
	h.token = good
	if status, out := h.do("GET", k, ""); status != 400 || out["kind"] != "malformed" {
		t.Errorf("the wrong method: %d %v", status, out)
	}
}

// Whatever is wrong with a blob, the answer is the same to the byte, but for the request's id.
func TestEveryFailureToOpenLooksTheSame(t *testing.T) {
	h := newHouse(t, nil)
	blob := h.ok("/api/v1/keys/k-wrap/wrap", `{"plaintext_key":%q,"aad":"YWFk"}`, b64("0123456789abcdef"))["wrapped"].(string)
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(blob, "kw1."))
	if err != nil {
		t.Fatal(err)
	}
	var first string
	check := func(what, path, body string) {
		t.Helper()
		out := h.refused(path, body, 422, "rejected")
		delete(out, "request_id")
		b, _ := json.Marshal(out)
		if first == "" {
			first = string(b)
		}
		if string(b) != first {
			t.Errorf("%s: %s, unlike %s", what, b, first)
		}
	}
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		check(fmt.Sprintf("byte %d", i), "/api/v1/keys/k-wrap/unwrap", fmt.Sprintf(`{"wrapped":"kw1.%s","aad":"YWFk"}`, base64.RawURLEncoding.EncodeToString(bad)))
	}
	check("another aad", "/api/v1/keys/k-wrap/unwrap", fmt.Sprintf(`{"wrapped":%q,"aad":"YWFl"}`, blob))
	check("no aad", "/api/v1/keys/k-wrap/unwrap", fmt.Sprintf(`{"wrapped":%q}`, blob))
	check("as ciphertext", "/api/v1/keys/k-wrap/decrypt", fmt.Sprintf(`{"ciphertext":%q,"aad":"YWFk"}`, blob))
	check("another version", "/api/v1/keys/k-wrap/unwrap", fmt.Sprintf(`{"wrapped":%q,"aad":"YWFk","version":1}`, "kw1."+base64.RawURLEncoding.EncodeToString(append(append(bytes.Clone(raw[:20]), 9), raw[21:]...))))
	if s := h.pool.Stat(); s.Members[0].Breaker != "closed" || s.Members[1].Breaker != "closed" || s.Members[2].Breaker != "closed" {
		t.Errorf("a caller's bad blobs tripped a breaker: %+v", s.Members)
	}
}

func TestStatesAreCheckedAtEveryUse(t *testing.T) {
	h := newHouse(t, nil)
	ctx := context.Background()
	blob := h.ok("/api/v1/keys/k-wrap/wrap", `{"plaintext_key":%q}`, b64("0123456789abcdef"))["wrapped"]
	wrap, unwrap := `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg=="}`, fmt.Sprintf(`{"wrapped":%q}`, blob)
	change := func(e key.Event) {
		t.Helper()
		if _, err := h.manager.Change(ctx, "test", key.Ref{Name: "k-wrap", Version: 1}, e); err != nil {
			t.Fatal(err)
		}
		if err := h.cat.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
	}
	change(key.Suspend)
	h.refused("/api/v1/keys/k-wrap/wrap", wrap, 409, "key_state")
	change(key.Resume)
	h.ok("/api/v1/keys/k-wrap/wrap", "%s", wrap)
	change(key.Deactivate)
	h.refused("/api/v1/keys/k-wrap/wrap", wrap, 409, "key_state")
	h.ok("/api/v1/keys/k-wrap/unwrap", "%s", unwrap)
	change(key.Destroy)
	h.refused("/api/v1/keys/k-wrap/unwrap", unwrap, 410, "gone")
}

func TestNothingSecretIsLogged(t *testing.T) {
	h := newHouse(t, nil)
	marker := "MARKERmarkerMARKERmarkerMARKERma"
	w := h.ok("/api/v1/keys/k-wrap/wrap", `{"plaintext_key":%q}`, b64(marker))["wrapped"]
	h.ok("/api/v1/keys/k-wrap/unwrap", `{"wrapped":%q}`, w)
	h.refused("/api/v1/keys/k-wrap/wrap", fmt.Sprintf(`{"plaintext_key":%q,"x":%q}`, b64(marker), marker), 400, "malformed")
	h.refused("/api/v1/keys/k-sign/sign", fmt.Sprintf(`{"message":%q,"digest":%q}`, b64(marker), b64(marker)), 400, "malformed")
	logged := h.log.String()
	if len(logged) == 0 {
		t.Fatal("there is no log to look at")
	}
	for _, s := range []string{marker, b64(marker), h.token} {
		if strings.Contains(logged, s) {
			t.Errorf("the log holds %q", s)
		}
	}
}
