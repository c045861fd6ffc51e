package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyway/lifecycle/key"
)

func TestTokensIdentifyClients(t *testing.T) {
	g := newGate(t, nil)
	try := func(header string) answer {
		t.Helper()
		req, _ := http.NewRequest("POST", g.url+"/api/v1/keys/k-sign/sign", strings.NewReader(`{"message":"aGk="}`))
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		res, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return answer{status: res.StatusCode, header: res.Header}
	}
	for _, h := range []string{"Bearer " + appToken, "bearer " + appToken, "BEARER  " + appToken} {
		if a := try(h); a.status != 200 {
			t.Errorf("%.10s…: %d", h, a.status)
		}
	}
	for _, h := range []string{"", "Bearer", "Bearer ", "Bearer kw_unknown", appToken, "Basic " + b64("app:"+appToken), "Bearer " + appToken[:len(appToken)-1], "Bearer " + appToken + "x",
		"Bearer " + key.HashToken(appToken), "Bearer " + offToken} {
		if a := try(h); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%.30s: %d %q", h, a.status, a.header.Get("WWW-Authenticate"))
		}
	}
	g.token = "kw_unknown"
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), Unauthenticated, "token")
	// A client that is removed is refused at its next request, on the connection it has open.
	g.token = appToken
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
	g.shelf.dir.Store(key.NewDirectory(nil, nil))
	g.refused(g.key("k-sign", "sign", `{"message":"aGk="}`), Unauthenticated, "token")
	if n := g.crypto.ops.Load(); n != 4 {
		t.Errorf("%d operations reached the token, want 4", n)
	}
}

func TestGrantsLimitClientsByPatternAndUsage(t *testing.T) {
	g := newGate(t, nil)
	msg, none := `{"message":"aGk="}`, `{"message":"aGk=","signature":""}`
	g.refused(g.key("other", "encrypt", `{"plaintext":"aGk="}`), NotFound, "")
	g.refused(g.key("k-none", "sign", msg), NotFound, "")
	hidden, missing := g.key("other", "sign", msg), g.key("k-none", "sign", msg)
	for _, a := range []*answer{&hidden, &missing} {
		a.raw = strings.ReplaceAll(a.raw, a.body["request_id"].(string), "")
	}
	if hidden.raw != missing.raw {
		t.Errorf("a key that may not be seen looks unlike one that does not exist: %s, %s", hidden.raw, missing.raw)
	}
	g.token = signToken // one client, one usage, one pattern
	g.ok("k-sign", "sign", "%s", msg)
	g.refused(g.key("k-sign", "verify", none), Forbidden, "sign")
	g.refused(g.key("k-p384", "sign", msg), NotFound, "")
	g.refused(g.key("k-wrap", "decrypt", `{"ciphertext":"kw1."}`), NotFound, "")
	if a := g.send("GET", "/api/v1/keys/k-sign", ""); a.status != 200 {
		t.Errorf("metadata of a key the client may use: %d", a.status)
	}
	g.refused(g.send("GET", "/api/v1/keys/k-rsa", ""), NotFound, "")
	g.refused(g.send("POST", "/api/v1/batch", `{"operations":[]}`), Malformed, "none")
	if a := g.send("POST", "/api/v1/random", `{"bytes":1}`); a.status != 200 {
		t.Errorf("random: %d", a.status)
	}
	// Rewrapping is opening and protecting, and needs both.
	g.shelf.dir.Store(key.NewDirectory([]key.Client{{Name: "half", TokenHashes: []string{key.HashToken("kw_half")}}}, []key.Grant{{Client: "half", Pattern: "*", Usages: key.Wrap}}))
	g.token = "kw_half"
	g.refused(g.key("k-wrap", "rewrap", `{"wrapped":"kw1."}`), Forbidden, "unwrap")
	// A pattern may cover what is no key's name; such a name must not lead to a key by another way.
	g.refused(g.key("k-wrap:1", "wrap", `{"plaintext_key":"aGk="}`), NotFound, "")
	g.refused(g.send("POST", "/api/v1/batch", `{"operations":[{"op":"wrap","key":"k-wrap:1","plaintext_key":"aGk="}]}`).first(), NotFound, "")
}

// first returns a batch's first result as an answer of its own.
func (a answer) first() answer {
	r, ok := a.body["results"].([]any)
	if !ok || len(r) == 0 {
		return a
	}
	b := r[0].(map[string]any)
	out := answer{raw: fmt.Sprint(b), body: b, header: http.Header{"Content-Type": {"application/problem+json"}}}
	if s, ok := b["status"].(float64); ok {
		out.status = int(s)
	}
	if v, ok := b["retry_after"]; ok {
		out.header.Set("Retry-After", fmt.Sprint(v))
	}
	return out
}

func TestARateIsKeptPerClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limits{begun: time.Now()}
		c := &key.Client{Name: "a", Rate: 10, Burst: 5}
		take := func(n int, charge bool) time.Duration { return l.take(time.Now(), n, c, charge) }
		for i := range 5 {
			if w := take(1, true); w != 0 {
				t.Fatalf("operation %d of the burst waits %s", i, w)
			}
		}
		if w := take(1, true); w != 100*time.Millisecond {
			t.Errorf("after the burst: wait %s, want 100ms", w)
		}
		if w := l.take(time.Now(), 5, &key.Client{Name: "b", Rate: 10, Burst: 5}, true); w != 0 {
			t.Errorf("another client waits %s", w)
		}
		time.Sleep(100 * time.Millisecond)
		if w := take(1, true); w != 0 {
			t.Errorf("after 100ms: wait %s", w)
		}
		if w := take(1, true); w == 0 {
			t.Error("100ms gave two operations")
		}
		time.Sleep(time.Hour)
		if w := take(5, true); w != 0 {
			t.Errorf("a burst after an hour: wait %s", w)
		}
		if w := take(1, true); w == 0 {
			t.Error("an hour of saving gave more than the burst")
		}
		// Over a long time a client that never stops asking gets its rate.
		n := 0
		for range 10_000 {
			time.Sleep(10 * time.Millisecond)
			if take(1, true) == 0 {
				n++
			}
		}
		if n < 999 || n > 1001 {
			t.Errorf("%d operations in 100s at 10 a second", n)
		}
		// A batch larger than the burst starts when nothing else was started, and is paid for afterwards.
		time.Sleep(time.Minute)
		if w := take(1, false) + take(100, true); w != 0 {
			t.Errorf("a batch of 100 on a full burst waits %s", w)
		}
		if w := take(1, true); w < 9*time.Second || w > 10*time.Second {
			t.Errorf("after a batch of 100 at 10 a second and a burst of 5: wait %s, want 9.6s", w)
		}
		time.Sleep(9600 * time.Millisecond)
		if w := take(1, true); w != 0 {
			t.Errorf("after the wait it said: wait %s", w)
		}
		if w := take(100, true); w != 500*time.Millisecond {
			t.Errorf("a second batch while 5 operations are not paid for: wait %s, want 500ms", w)
		}
		time.Sleep(500 * time.Millisecond)
		if w := take(100, true); w != 0 {
			t.Errorf("after the wait it said, a second batch waits %s", w)
		}
		// An operator's change counts from the next operation on.
		time.Sleep(10 * time.Second)
		c = &key.Client{Name: "a", Rate: 1000, Burst: 1000}
		if w := take(500, true); w != 0 {
			t.Errorf("after the rate was raised: wait %s", w)
		}
	})
}

func TestThrottledClientsAreToldWhenToComeBack(t *testing.T) {
	g := newGate(t, nil)
	g.shelf.dir.Store(key.NewDirectory([]key.Client{
		{Name: "slow", TokenHashes: []string{key.HashToken(slowToken)}, Rate: 0.01, Burst: 5},
		{Name: "app", TokenHashes: []string{key.HashToken(appToken)}},
	}, []key.Grant{{Client: "slow", Pattern: "*", Usages: key.Sign}}))
	g.token = slowToken
	three := `{"operations":[` + strings.Repeat(`{"op":"random","bytes":1},`, 2) + `{"op":"random","bytes":1}]}`
	if a := g.send("POST", "/api/v1/batch", three); a.status != 200 {
		t.Fatalf("a batch: %d %s", a.status, a.raw)
	}
	g.refused(g.send("POST", "/api/v1/batch", three), Throttled, "0.01")
	for i := range 2 {
		if a := g.key("k-sign", "sign", `{"message":"aGk="}`); a.status != 200 {
			t.Fatalf("operation %d after a batch of 3: %d", i, a.status)
		}
	}
	g.refused(g.send("POST", "/api/v1/batch", three), Throttled, "0.01")
	a := g.key("k-sign", "sign", `{"message":"aGk="}`)
	g.refused(a, Throttled, "0.01")
	if n, _ := a.body["retry_after"].(float64); n < 95 || n > 100 {
		t.Errorf("retry after %v seconds, at one operation in 100", n)
	}
	if a := g.send("GET", "/healthz", ""); a.status != 200 {
		t.Errorf("healthz is throttled: %d", a.status)
	}
	g.token = appToken
	if a := g.send("POST", "/api/v1/random", `{"bytes":1}`); a.status != 200 {
		t.Errorf("another client: %d", a.status)
	}
}
