package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/pool"
)

const token = TokenPrefix + "of-the-operator-alice"

// house is the API on a real manager and a real pool of embedded tokens.
type house struct {
	t        *testing.T
	api      *API
	store    lifecycle.Store
	log      *lockedLog
	pool     *pool.Pool
	changed  int           // how often Changed was called
	verifier string        // of the log's key
	hold     chan struct{} // closed: the token called slow opens
}

// lockedLog keeps what is logged.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// kept keeps a token through its closing.
type kept struct{ *soft.Token }

func (kept) Close() error { return nil }

func newHouse(t *testing.T, change func(*Config)) *house {
	t.Helper()
	ctx := context.Background()
	h := &house{t: t, log: &lockedLog{}, hold: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(h.log, nil))
	store, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "keyway.db"))
	must(t, err)
	h.store = store
	t.Cleanup(func() { _ = store.Close() })
	cp, err := pool.New(pool.Config{Name: "custody"})
	must(t, err)
	t.Cleanup(func() { _ = cp.Close() })
	custodyToken := soft.New("custody")
	must(t, cp.Add(pool.MemberConfig{Name: "custody", Sessions: 1, Open: func(context.Context) (hsm.Token, error) { return kept{custodyToken}, nil }}))
	must(t, cp.Wait(ctx))
	custody := lifecycle.NewCustody(lifecycle.CustodyConfig{Token: cp, Store: store, AutoRoot: true})
	must(t, custody.Init(ctx))
	kek, err := custody.EnsurePool(ctx, "default")
	must(t, err)
	p, err := pool.New(pool.Config{Name: "default"})
	h.pool = p
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	var mu sync.Mutex
	tokens := map[string]*soft.Token{}
	opened := map[string]int{}
	members := lifecycle.NewMembership(lifecycle.MembershipConfig{
		Store: store, Pool: p, PoolName: "default", KEK: kek, Custody: custody, Log: log,
		Open: func(r lifecycle.MemberRecord) func(context.Context) (hsm.Token, error) {
			return func(context.Context) (hsm.Token, error) {
				mu.Lock()
				defer mu.Unlock()
				opened[r.TokenLabel]++
				if r.TokenLabel == "wrong-pin" || r.TokenLabel == "wrong-later" && opened[r.TokenLabel] > 1 {
					return nil, &hsm.Error{Code: hsm.PinIncorrect, Function: hsm.FnLogin}
				}
				if r.TokenLabel == "slow" {
					mu.Unlock()
					<-h.hold
					mu.Lock()
				}
				if tokens[r.Name] == nil {
					tokens[r.Name] = soft.New(r.Name)
				}
				return kept{tokens[r.Name]}, nil
			}
		},
	})
	secret, err := audit.NewLogKey("node/test")
	must(t, err)
	logKey, err := audit.ParseLogKey(secret)
	must(t, err)
	auditLog, err := lifecycle.OpenAuditLog(ctx, lifecycle.AuditLogConfig{Store: store, Key: logKey})
	must(t, err)
	t.Cleanup(func() { _ = auditLog.Close(ctx) })
	h.verifier = logKey.VerifierKey()
	cfg := Config{
		Audit:       auditLog,
		Manager:     lifecycle.NewManager(lifecycle.ManagerConfig{Store: store, Custody: custody, Log: log}),
		Pools:       map[string]Members{"default": members},
		DefaultPool: "default",
		Admins:      []Admin{{Name: "alice", TokenHash: key.HashToken(token)}},
		Changed:     func(context.Context) { h.changed++ },
		Metrics:     http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metrics")) }),
		Log:         log,
	}
	if change != nil {
		change(&cfg)
	}
	h.api = New(cfg)
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send sends a request as the operator.
func (h *house) send(method, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	h.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.api.ServeHTTP(w, r)
	return w
}

// ok sends a request that must be answered with status, and returns the answer.
func (h *house) ok(method, path, body string, status int) map[string]any {
	h.t.Helper()
	w := h.send(method, path, body)
	if w.Code != status {
		h.t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, w.Code, w.Body, status)
	}
	out := map[string]any{}
	if w.Body.Len() > 0 {
		if c := w.Header().Get("Content-Type"); c != "application/json" {
			h.t.Errorf("%s %s: Content-Type %q", method, path, c)
		}
		if w.Header().Get("Cache-Control") != "no-store" {
			h.t.Errorf("%s %s: the answer may be cached", method, path)
		}
		must(h.t, json.Unmarshal(w.Body.Bytes(), &out))
	}
	return out
}

// refused checks a problem document.
func (h *house) refused(w *httptest.ResponseRecorder, status int, kind, detail string) {
	h.t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		h.t.Errorf("%d %s: %v", w.Code, w.Body, err)
		return
	}
	if w.Code != status || p.Status != status || p.Kind != kind || !strings.Contains(p.Detail, detail) {
		h.t.Errorf("%d %+v, want %d %s with %q", w.Code, p, status, kind, detail)
	}
	if p.Type != "urn:keyway:problem:"+kind || p.Title == "" || len(p.RequestID) != 16 {
		h.t.Errorf("problem %+v lacks something", p)
	}
	if c := w.Header().Get("Content-Type"); c != "application/problem+json" {
		h.t.Errorf("Content-Type %q", c)
	}
}

// member adds a member and waits until it is in one of the states.
func (h *house) member(name, label string, state pool.State) {
	h.t.Helper()
	h.ok("POST", "/admin/v1/members", `{"name":"`+name+`","driver":"soft","token_label":"`+label+`","token_dir":"/t","pin_file":"/p","sessions":1}`, 201)
	h.until(name, state)
}

// until waits until a member is in a state, as the API tells it.
func (h *house) until(name string, state pool.State) {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		var m MemberAnswer
		if w := h.send("GET", "/admin/v1/members/"+name, ""); w.Code == 200 && json.Unmarshal(w.Body.Bytes(), &m) == nil && m.State == state {
			return
		}
	}
	h.t.Fatalf("member %s is not %s", name, state)
}

// busy gives some member work that lasts until release is closed, and returns its name when it has begun.
func (h *house) busy(started, release chan struct{}, ended chan error) (name string) {
	h.t.Helper()
	go func() {
		ended <- h.pool.With(context.Background(), func(hsm.Keeper) error {
			close(started)
			<-release
			return nil
		})
	}()
	<-started
	for _, m := range h.pool.Stat().Members {
		if m.Busy > 0 {
			name = m.Name
		}
	}
	return name
}
