package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// soon waits until a call of a key answers with a status; the promise is a second.
func (r *running) soon(call, body string, status int, kind string) {
	r.t.Helper()
	var got int
	var out map[string]any
	for deadline := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		if got, out = r.post(call, body); got == status {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: a second after the order still %d %v, want %d", call, got, out, status)
		}
	}
	if kind != "" && out["kind"] != kind {
		r.t.Errorf("%s: %v, want kind %s", call, out, kind)
	}
}

// What operators order, the data plane does within a second.
func TestOrdersReachTheDataPlane(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		r := startDev(t, kind, newDevDir(t, kind))
		wrap, unwrap := `{"plaintext_key":"`+b64([]byte("0123456789abcdef"))+`"}`, func(blob any) string { return fmt.Sprintf(`{"wrapped":%q}`, blob) }

		// A key's life.
		r.ordered("key", "create", "demo-new", "--algorithm", "aes-256")
		r.soon("demo-new/wrap", wrap, 200, "")
		old := r.ok("demo-new/wrap", wrap)["wrapped"]
		r.ordered("key", "rotate", "demo-new")
		r.soon("demo-new/wrap", `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg==","version":1}`, 409, "key_state")
		if out := r.ok("demo-new/wrap", wrap); out["version"] != 2.0 {
			t.Errorf("after the rotation version %v wraps", out["version"])
		}
		r.soon("demo-new/unwrap", unwrap(old), 200, "")
		r.ordered("key", "disable", "demo-new")
		r.soon("demo-new/wrap", wrap, 409, "key_state")
		r.ordered("key", "enable", "demo-new")
		r.soon("demo-new/wrap", wrap, 200, "")
		if code, _, said := r.order("key", "destroy", "demo-new", "--version", "2"); code != exitFailed || !strings.Contains(said, "key_state") {
			t.Errorf("destroying an active version: %d %s", code, said)
		}
		r.ordered("key", "destroy", "demo-new", "--version", "1")
		r.soon("demo-new/unwrap", unwrap(old), 410, "gone")
		r.soon("demo-new/wrap", wrap, 200, "")
		r.ordered("key", "compromise", "demo-new", "--version", "2")
		r.soon("demo-new/wrap", wrap, 409, "key_state")

		// Grants: without one a key is not there; with one for less, the rest is forbidden.
		grants := r.ordered("grant", "list")["grants"].([]any)
		r.ordered("grant", "delete", fmt.Sprint(grants[0].(map[string]any)["id"]))
		r.soon("demo-sign/sign", signBody, 404, "not_found")
		r.ordered("grant", "create", "--client", "demo", "--pattern", "demo-*", "--usage", "verify")
		r.soon("demo-sign/sign", signBody, 403, "forbidden")
		r.ordered("grant", "create", "--client", "demo", "--pattern", "demo-s*", "--usage", "sign")
		r.soon("demo-sign/sign", signBody, 200, "")

		// Clients: the token that is shown once works until there is a new one.
		token := r.ordered("client", "create", "app", "--group", "web")["token"].(string)
		r.ordered("grant", "create", "--group", "web", "--pattern", "demo-sign", "--usage", "sign")
		demo := r.token
		r.token = token
		r.soon("demo-sign/sign", signBody, 200, "")
		r.soon("demo-rsa/sign", signBody, 404, "not_found")
		again := r.ordered("client", "token", "app")["token"].(string)
		r.soon("demo-sign/sign", signBody, 401, "unauthenticated")
		r.token = again
		r.soon("demo-sign/sign", signBody, 200, "")
		r.ordered("client", "delete", "app")
		r.soon("demo-sign/sign", signBody, 401, "unauthenticated")
		r.token = demo
	})
}

// Members come and go under load and nobody notices; the last one stays unless it is forced.
func TestMembersComeAndGoUnderLoad(t *testing.T) {
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	l := startLoad(6, r.sign)
	r.within(30*time.Second, "under load", func() bool { return l.soFar(200) > 50 })
	r.ordered("member", "drain", "m1")
	if m := r.member("default", "m1"); m["state"] != "drained" || m["pid"] != nil {
		t.Errorf("drained: %v", m)
	}
	r.ordered("member", "drain", "m2")
	if code, _, said := r.order("member", "drain", "m3"); code != exitFailed || !strings.Contains(said, "last_member") {
		t.Errorf("draining the last member: %d %s", code, said)
	}
	if code, _, said := r.order("member", "remove", "m3"); code != exitFailed || !strings.Contains(said, "last_member") {
		t.Errorf("removing the last member: %d %s", code, said)
	}
	r.ordered("member", "resume", "m1")
	r.within(30*time.Second, "using m1 again", func() bool { return r.member("default", "m1")["state"] == "active" })
	// A new member: m2's token under another name would lack that name's Root KEK, so m2 comes back as itself.
	r.ordered("member", "remove", "m2")
	tok := filepath.Join(r.dir, "tokens", "m2")
	r.ordered("member", "add", "m2", "--driver", "soft", "--token-dir", filepath.Join(tok, "store"), "--token-label", "keyway-m2", "--pin-file", filepath.Join(tok, "pin"))
	r.within(30*time.Second, "using m2 again", func() bool { return r.member("default", "m2")["state"] == "active" })
	before := r.member("default", "m2")["operations"].(float64)
	r.within(30*time.Second, "giving m2 work", func() bool { return r.member("default", "m2")["operations"].(float64) > before })
	if code, _, said := r.order("member", "add", "m2", "--driver", "soft", "--token-dir", "/x", "--pin-file", "/x"); code != exitFailed || !strings.Contains(said, "exists") {
		t.Errorf("a second m2: %d %s", code, said)
	}
	status, errs := l.end()
	if len(errs) > 0 || len(status) != 1 || status[200] == 0 {
		t.Errorf("answers %v, errors %v", status, errs)
	}

	r.ordered("member", "drain", "m1")
	r.ordered("member", "drain", "m2")
	r.ordered("member", "remove", "m3", "--force")
	r.soon("demo-sign/sign", signBody, 503, "unavailable")
	res, _, err := r.send(http.MethodGet, "/readyz", "")
	if err != nil || res.StatusCode != 503 {
		t.Errorf("/readyz without members: %v %v", res, err)
	}
	r.ordered("member", "resume", "m1")
	r.within(30*time.Second, "serving again", func() bool { s, _ := r.post("demo-sign/sign", signBody); return s == 200 })
}

// A member whose PIN file everybody may read does not join and says why, until the file is put right.
func TestAPINFileThatEverybodyMayRead(t *testing.T) {
	t.Parallel() // it waits more than it works
	dir := newDevDir(t, onEmbedded)
	pin := filepath.Join(dir, "tokens", "m2", "pin")
	if err := os.Chmod(pin, 0o644); err != nil {
		t.Fatal(err)
	}
	r := startDev(t, onEmbedded, dir)
	m := r.member("default", "m2")
	if reason, _ := m["reason"].(string); m["state"] != "joining" || !strings.Contains(reason, "may be read by everybody: chmod 600 it") {
		t.Errorf("member list says %v", m)
	}
	r.says(pin + " may be read by everybody")
	if err := os.Chmod(pin, 0o600); err != nil {
		t.Fatal(err)
	}
	r.within(30*time.Second, "complete", func() bool { return r.member("default", "m2")["state"] == "active" })
}
