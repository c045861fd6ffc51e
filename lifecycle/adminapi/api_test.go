package adminapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyway/lifecycle/key"
	"keyway/pool"
)

// Every route once, as an operator uses them. At its end no route is left that was not called.
func TestEveryRoute(t *testing.T) {
	h := newHouse(t, nil)
	left := map[string]bool{}
	for r := range h.api.routes() {
		left[r] = true
	}
	do := func(route, path, body string, status int) map[string]any {
		t.Helper()
		if _, ok := h.api.routes()[route]; !ok {
			t.Fatalf("there is no route %s", route)
		}
		delete(left, route)
		method, _, _ := strings.Cut(route, " ")
		return h.ok(method, "/admin/v1"+path, body, status)
	}
	state := func(k map[string]any, version int) string {
		return k["versions"].([]any)[version-1].(map[string]any)["state"].(string)
	}

	k := do("POST /admin/v1/keys", "/keys", `{"name":"k","algorithm":"aes-256","usages":["wrap","unwrap"]}`, 201)
	if k["name"] != "k" || k["pool"] != "default" || k["primary_version"] != 1.0 || state(k, 1) != "active" || fmt.Sprint(k["usages"]) != "[wrap unwrap]" {
		t.Errorf("created: %v", k)
	}
	if l := do("GET /admin/v1/keys", "/keys", "", 200)["keys"].([]any); len(l) != 1 {
		t.Errorf("listed: %v", l)
	}
	if s := do("GET /admin/v1/keys/{name}", "/keys/k", "", 200); s["id"] != k["id"] {
		t.Errorf("shown: %v", s)
	}
	k = do("POST /admin/v1/keys/{name}/rotate", "/keys/k/rotate", "", 200)
	if k["primary_version"] != 2.0 || state(k, 1) != "deactivated" || state(k, 2) != "active" {
		t.Errorf("rotated: %v", k)
	}
	for _, c := range []struct {
		verb, body string
		version    int
		state      string
	}{
		{"disable", "", 2, "suspended"}, {"enable", `{"version":2}`, 2, "active"}, {"deactivate", "", 2, "deactivated"},
		{"compromise", `{"version":2}`, 2, "compromised"}, {"destroy", `{"version":1}`, 1, "destroyed"},
	} {
		if k = do("POST /admin/v1/keys/{name}/"+c.verb, "/keys/k/"+c.verb, c.body, 200); state(k, c.version) != c.state {
			t.Errorf("%s: %v", c.verb, k)
		}
	}

	delete(left, "POST /admin/v1/members")
	h.member("m1", "m1", pool.Active)
	h.member("m2", "m2", pool.Active)
	h.member("m3", "wrong-later", pool.Latched)
	pools := do("GET /admin/v1/members", "/members", "", 200)["pools"].([]any)
	if len(pools) != 1 || len(pools[0].(map[string]any)["members"].([]any)) != 3 {
		t.Errorf("members: %v", pools)
	}
	do("GET /admin/v1/members", "/members?pool=default", "", 200)
	if m := do("GET /admin/v1/members/{name}", "/members/m1?pool=default", "", 200); m["name"] != "m1" || m["state"] != "active" {
		t.Errorf("one member: %v", m)
	}
	if m := do("POST /admin/v1/members/{name}/drain", "/members/m1/drain", "", 200); m["state"] != "drained" {
		t.Errorf("drained: %v", m)
	}
	h.refused(h.send("POST", "/admin/v1/members/m2/drain", ""), 409, "last_member", "force")
	h.refused(h.send("POST", "/admin/v1/members/m2/drain?force=false", ""), 409, "last_member", "force")
	if m := do("POST /admin/v1/members/{name}/drain", "/members/m2/drain?force=true", "", 200); m["state"] != "drained" {
		t.Errorf("drained by force: %v", m)
	}
	if m := do("POST /admin/v1/members/{name}/resume", "/members/m1/resume", "", 200); m["name"] != "m1" || m["state"] == "drained" {
		t.Errorf("resumed: %v", m)
	}
	if m := do("POST /admin/v1/members/{name}/clear-latch", "/members/m3/clear-latch", "", 200); m["name"] != "m3" {
		t.Errorf("latch cleared: %v", m)
	}
	do("DELETE /admin/v1/members/{name}", "/members/m2", "", 204)
	h.refused(h.send("DELETE", "/admin/v1/members/m2", ""), 404, "not_found", "m2")

	c := do("POST /admin/v1/clients", "/clients", `{"name":"app","groups":["web"],"rate":2.5,"burst":3}`, 201)
	if !strings.HasPrefix(c["token"].(string), "kw_") {
		t.Errorf("client: %v", c)
	}
	list := do("GET /admin/v1/clients", "/clients", "", 200)
	if b, _ := json.Marshal(list); !strings.Contains(string(b), `"tokens":1`) || strings.Contains(string(b), key.HashToken(c["token"].(string))) {
		t.Errorf("clients, whose tokens are only counted: %s", b)
	}
	if again := do("POST /admin/v1/clients/{name}/token", "/clients/app/token", "", 200); again["token"] == c["token"] {
		t.Error("the new token is the old one")
	}
	g := do("POST /admin/v1/grants", "/grants", `{"client":"app","pattern":"k*","usages":["sign"]}`, 201)
	if l := do("GET /admin/v1/grants", "/grants", "", 200)["grants"].([]any); len(l) != 1 || l[0].(map[string]any)["id"] != g["id"] {
		t.Errorf("grants: %v, made %v", l, g)
	}
	do("DELETE /admin/v1/grants/{id}", fmt.Sprintf("/grants/%v", g["id"]), "", 204)
	do("DELETE /admin/v1/clients/{name}", "/clients/app", "", 204)
	if l := do("GET /admin/v1/clients", "/clients", "", 200)["clients"].([]any); len(l) != 0 {
		t.Errorf("clients: %v", l)
	}

	if p := do("GET /admin/v1/audit/entries", "/audit/entries?key=k&limit=3", "", 200); len(p["entries"].([]any)) != 3 || p["next"] == nil {
		t.Errorf("the log: %v", p)
	}
	delete(left, "POST /admin/v1/audit/export") // TestTheLogIsExported

	for r := range left {
		t.Errorf("the test does not call %s", r)
	}
	for _, who := range []string{"key created", "key rotated", "key version changed", "member drained", "member removed", "client created", "grant deleted"} {
		if !strings.Contains(h.log.String(), `msg="`+who+`" actor=alice`) {
			t.Errorf("the log does not tell that alice did it: %s", who)
		}
	}
}

// Nothing is answered to somebody unknown, but whether the process lives.
func TestNobodyUnknownIsAnswered(t *testing.T) {
	h := newHouse(t, nil)
	tries := map[string]func(*http.Request){
		"nothing":          func(r *http.Request) { r.Header.Del("Authorization") },
		"another token":    func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+TokenPrefix+"guess") },
		"an empty token":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer ") },
		"the hash":         func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key.HashToken(token)) },
		"a longer token":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token+"x") },
		"another scheme":   func(r *http.Request) { r.Header.Set("Authorization", "Basic "+token) },
		"token in a query": func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "token=" + token },
	}
	paths := slices.Sorted(maps.Keys(h.api.routes()))
	paths = append(paths, "GET /admin/v1/none", "GET /metrics", "GET /")
	for _, route := range paths {
		method, path, _ := strings.Cut(route, " ")
		path = strings.NewReplacer("{name}", "k", "{id}", "1").Replace(path)
		for what, change := range tries {
			w := h.send(method, path, "", change)
			if w.Code != 401 {
				t.Errorf("%s with %s: %d", route, what, w.Code)
			}
			h.refused(w, 401, "unauthenticated", "Bearer")
			if w.Header().Get("WWW-Authenticate") == "" && path != "/metrics" {
				t.Errorf("%s with %s: no WWW-Authenticate", route, what)
			}
		}
	}
	if h.changed != 0 {
		t.Error("somebody unknown changed something")
	}
	if w := h.send("GET", "/healthz", "", tries["nothing"]); w.Code != 200 {
		t.Errorf("/healthz: %d", w.Code)
	}
	if w := h.send("GET", "/metrics", ""); w.Code != 200 || w.Body.String() != "metrics" {
		t.Errorf("/metrics for an operator: %d", w.Code)
	}
	open := newHouse(t, func(c *Config) { c.OpenMetrics = true })
	if w := open.send("GET", "/metrics", "", tries["nothing"]); w.Code != 200 {
		t.Errorf("open /metrics: %d", w.Code)
	}
	if strings.Contains(h.log.String(), token) || strings.Contains(h.log.String(), "guess") {
		t.Error("the log holds a token")
	}
}

func TestBodiesAreReadStrictly(t *testing.T) {
	h := newHouse(t, nil)
	h.ok("POST", "/admin/v1/keys", `{"name":"k","algorithm":"aes-256"}`, 201)
	h.changed = 0
	f := func(path, body string, status int, kind, detail string, change ...func(*http.Request)) {
		t.Helper()
		h.refused(h.send("POST", "/admin/v1"+path, body, change...), status, kind, detail)
	}
	for path, good := range map[string]string{
		"/keys": `"name":"x","algorithm":"aes-256"`, "/clients": `"name":"x"`, "/grants": `"client":"a","pattern":"*","usages":["sign"]`,
		"/members": `"name":"m","driver":"soft","token_dir":"/t","pin_file":"/p"`, "/keys/k/disable": `"version":1`,
	} {
		f(path, `{`+good+`,"bogus":1}`, 400, "malformed", `"bogus"`)
		f(path, `{`+good+`} {}`, 400, "malformed", "follows")
		f(path, `{`+good, 400, "malformed", "")
		f(path, `[]`, 400, "malformed", "")
		f(path, `{`+good+`}`, 400, "malformed", "Content-Type", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
		f(path, `{`+good+`,"pad":"`+strings.Repeat("x", maxBody)+`"}`, 413, "too_large", "")
	}
	f("/keys/k/rotate", `{"version":1}`, 400, "malformed", `"version"`)
	for _, path := range []string{"/keys", "/clients", "/grants", "/members"} {
		f(path, "", 400, "malformed", "", func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	}
	f("/keys", `{"name":"K","algorithm":"aes-256"}`, 400, "malformed", "bad name")
	f("/keys", `{"name":"x","algorithm":"des"}`, 400, "malformed", "aes-128")
	f("/keys", `{"name":"x","algorithm":"aes-256","usages":["sing"]}`, 400, "malformed", "sing")
	f("/keys", `{"name":"x","algorithm":"aes-256","pool":"none"}`, 400, "malformed", "none")
	f("/keys", `{"name":"k","algorithm":"aes-256"}`, 409, "exists", "k")
	f("/keys/k/destroy", ``, 400, "malformed", "version")
	f("/keys/k/destroy", `{"version":1}`, 409, "key_state", "active")
	f("/keys/none/rotate", ``, 404, "not_found", "none")
	f("/keys/k/disable", `{"version":-1}`, 400, "malformed", "version")
	f("/grants", `{"id":7,"client":"a","pattern":"*","usages":["sign"]}`, 400, "malformed", "id")
	f("/clients", `{"name":"x","cert_hashes":["AB"]}`, 400, "malformed", "SHA-256")
	f("/members", `{"name":"m","driver":"soft","token_dir":"/t","pin_file":"/p","latched":"x"}`, 400, "malformed", "latched")
	f("/members", `{"name":"m","driver":"soft","token_dir":"/t","pin_file":"/p","pool":"none"}`, 404, "not_found", "none")
	f("/members", `{"name":"m","driver":"usb"}`, 400, "malformed", "driver")
	f("/members/none/drain", ``, 404, "not_found", "none")
	h.refused(h.send("DELETE", "/admin/v1/grants/x", ""), 400, "malformed", "number")
	h.refused(h.send("GET", "/admin/v1/members?pool=none", ""), 404, "not_found", "none")
	h.refused(h.send("GET", "/admin/v1/nothing", ""), 404, "not_found", "")
	h.refused(h.send("PUT", "/admin/v1/keys", "{}"), 404, "not_found", "")
	if h.changed != 0 {
		t.Errorf("refused requests counted as %d changes", h.changed)
	}
	h.send("GET", "/admin/v1/keys", "")
	h.send("POST", "/admin/v1/keys/k/disable", "")
	if h.changed != 1 {
		t.Errorf("one read and one change counted as %d changes", h.changed)
	}
}

func TestPagesOfKeys(t *testing.T) {
	h := newHouse(t, nil)
	const n = 23
	for i := range n {
		h.ok("POST", "/admin/v1/keys", fmt.Sprintf(`{"name":"k%02d","algorithm":"aes-256"}`, i), 201)
	}
	for _, limit := range []int{1, 7, 22, 23, 24, 1000} {
		after, seen := "", []string{}
		for pages := 0; pages <= n; pages++ {
			p := h.ok("GET", fmt.Sprintf("/admin/v1/keys?limit=%d&after=%s", limit, after), "", 200)
			keys := p["keys"].([]any)
			if len(keys) > limit {
				t.Errorf("%d keys on a page of %d", len(keys), limit)
			}
			for _, k := range keys {
				seen = append(seen, k.(map[string]any)["name"].(string))
			}
			next, _ := p["next"].(string)
			if next == "" {
				break
			}
			after = next
		}
		if len(seen) != n || !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != n {
			t.Errorf("pages of %d show %d keys: %v", limit, len(seen), seen)
		}
	}
	if p := h.ok("GET", "/admin/v1/keys?after=k99", "", 200); fmt.Sprint(p["keys"]) != "[]" || p["next"] != nil {
		t.Errorf("after the last key: %v", p)
	}
	for _, bad := range []string{"0", "-1", "1001", "x", "1.5"} {
		h.refused(h.send("GET", "/admin/v1/keys?limit="+bad, ""), 400, "malformed", "limit")
	}
}

// A page of another site in the operator's browser cannot order anything, whatever the browser sends along.
func TestOtherSitesCannotOrder(t *testing.T) {
	h := newHouse(t, nil)
	for what, change := range map[string]func(*http.Request){
		"Sec-Fetch-Site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"Origin":         func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
	} {
		if w := h.send("POST", "/admin/v1/keys", `{"name":"k","algorithm":"aes-256"}`, change); w.Code != 403 {
			t.Errorf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	if h.changed != 0 {
		t.Error("another site changed something")
	}
}

func TestAPanicIsAnsweredWithoutDetail(t *testing.T) {
	h := newHouse(t, func(c *Config) { c.Manager = nil }) // the first use of it panics
	w := h.send("GET", "/admin/v1/keys", "")
	h.refused(w, 500, "internal", "request id")
	if strings.Contains(w.Body.String(), "nil") || strings.Contains(w.Body.String(), "panic") {
		t.Errorf("the answer tells what happened: %s", w.Body)
	}
	if !strings.Contains(h.log.String(), "goroutine") {
		t.Error("the log has no stack")
	}
}
