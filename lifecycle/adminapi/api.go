// Package adminapi is the operators' HTTP API: keys, members, clients and
// grants, under /admin/v1. Every request is bound to a named person, by bearer
// token or client certificate; what the person orders is carried out by
// lifecycle.Manager and lifecycle.Membership.
package adminapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// TokenPrefix begins every operator's token, so that scanners find one that leaked.
const TokenPrefix = "kwa_"

// Bounds of one request.
const (
	maxBody = 64 << 10 // bytes
	maxTime = 90 * time.Second
)

// Admin is a person who may use the API.
type Admin struct {
	// Name is written into the log with everything the person orders.
	Name string
	// TokenHash is key.HashToken of the bearer token, CertHash the lower-case hexadecimal SHA-256 of the
	// SubjectPublicKeyInfo of a client certificate that the TLS listener verified. "" is none.
	TokenHash, CertHash string
}

// Members changes the members of one pool; *lifecycle.Membership is one.
type Members interface {
	Add(ctx context.Context, actor string, r lifecycle.MemberRecord, o lifecycle.AddOptions) (lifecycle.Added, error)
	Trying(name string) (found []string, trying bool)
	Drain(ctx context.Context, actor, name string, o lifecycle.Order) error
	Resume(ctx context.Context, actor, name string) error
	ClearLatch(ctx context.Context, actor, name string) error
	Remove(ctx context.Context, actor, name string, o lifecycle.Order) error
	Stat() pool.Stat
}

// Config configures an API.
type Config struct {
	Manager *lifecycle.Manager
	// Pools holds the members of every pool, by the pool's name.
	Pools map[string]Members
	// DefaultPool is meant where a request names none.
	DefaultPool string
	Admins      []Admin
	// Audit lists and exports the audit log; nil: there is none here.
	Audit *lifecycle.AuditLog
	// Changed is called after every successful change, before it is answered, so that this process's gateway
	// has heard of it by then. Optional.
	Changed func(context.Context)
	// Metrics answers GET /metrics; nil: there are none. OpenMetrics lets it be read without an identity,
	// which is for listeners on loopback.
	Metrics     http.Handler
	OpenMetrics bool
	Log         *slog.Logger // default: discard
}

// API answers the operators' requests. It is safe for concurrent use.
type API struct {
	cfg     Config
	handler http.Handler
}

// New returns an API.
func New(cfg Config) *API {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{cfg: cfg}
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	if cfg.Metrics != nil {
		m.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := a.actor(r); !ok && !cfg.OpenMetrics {
				a.refuse(w, r, problem(kindUnauthenticated, "send Authorization: Bearer and an operator's token, or a client certificate"))
				return
			}
			cfg.Metrics.ServeHTTP(w, r)
		})
	}
	for pattern, h := range a.routes() {
		m.Handle(pattern, a.bound(h))
	}
	m.Handle("/", a.bound(func(*call) (any, error) { return nil, problem(kindNotFound, "there is no such call; docs list them") }))
	// Browsers send client certificates by themselves, so another site's page must not be able to order anything.
	a.handler = http.NewCrossOriginProtection().Handler(m)
	return a
}

// routes is the whole API.
func (a *API) routes() map[string]handler {
	return map[string]handler{
		"POST /admin/v1/keys":                   a.createKey,
		"GET /admin/v1/keys":                    a.listKeys,
		"GET /admin/v1/keys/{name}":             a.showKey,
		"POST /admin/v1/keys/{name}/rotate":     a.rotateKey,
		"POST /admin/v1/keys/{name}/disable":    a.changeKey(key.Suspend),
		"POST /admin/v1/keys/{name}/enable":     a.changeKey(key.Resume),
		"POST /admin/v1/keys/{name}/deactivate": a.changeKey(key.Deactivate),
		"POST /admin/v1/keys/{name}/compromise": a.changeKey(key.Compromise),
		"POST /admin/v1/keys/{name}/destroy":    a.changeKey(key.Destroy),

		"GET /admin/v1/members":                     a.listMembers,
		"POST /admin/v1/members":                    a.addMember,
		"GET /admin/v1/members/{name}":              a.showMember,
		"POST /admin/v1/members/{name}/drain":       a.member(func(c *call, m Members, n string) error { return m.Drain(c.ctx, c.actor, n, c.order()) }),
		"POST /admin/v1/members/{name}/resume":      a.member(func(c *call, m Members, n string) error { return m.Resume(c.ctx, c.actor, n) }),
		"POST /admin/v1/members/{name}/clear-latch": a.member(func(c *call, m Members, n string) error { return m.ClearLatch(c.ctx, c.actor, n) }),
		"DELETE /admin/v1/members/{name}":           a.removeMember,

		"POST /admin/v1/clients":              a.createClient,
		"GET /admin/v1/clients":               a.listClients,
		"DELETE /admin/v1/clients/{name}":     a.deleteClient,
		"POST /admin/v1/clients/{name}/token": a.newToken,
		"POST /admin/v1/grants":               a.createGrant,
		"GET /admin/v1/grants":                a.listGrants,
		"DELETE /admin/v1/grants/{id}":        a.deleteGrant,

		"GET /admin/v1/audit/entries": a.listEntries,
		"POST /admin/v1/audit/export": a.exportLog,
	}
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.handler.ServeHTTP(w, r) }

// call is a request whose sender is known.
type call struct {
	ctx   context.Context
	actor string
	r     *http.Request
}

// handler carries out a call. It returns what is written as JSON: nothing for nil, with status 201 for a created.
type handler func(*call) (any, error)

// created marks an answer for status 201.
type created struct{ v any }

// bound finds out who asks, bounds the request's size and time, and writes what became of it.
func (a *API) bound(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		actor, auth, ok := a.actor(r)
		if !ok {
			a.cfg.Log.WarnContext(r.Context(), "admin request without identity", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", `Bearer realm="keyway admin"`)
			a.refuse(w, r, problem(kindUnauthenticated, "send Authorization: Bearer and an operator's token, or a client certificate"))
			return
		}
		ctx, cancel := context.WithTimeout(lifecycle.WithAuth(r.Context(), auth), maxTime)
		defer cancel()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := a.run(h, &call{ctx: ctx, actor: actor, r: r})
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		if r.Method != http.MethodGet && a.cfg.Changed != nil {
			a.cfg.Changed(ctx)
		}
		switch v := v.(type) {
		case nil:
			w.WriteHeader(http.StatusNoContent)
		case streamed:
			a.stream(w, r.WithContext(lifecycle.WithAuth(r.Context(), auth)), v)
		case created:
			writeJSON(w, http.StatusCreated, v.v)
		default:
			writeJSON(w, http.StatusOK, v)
		}
	})
}

// run runs h. A panic becomes an error, so that its sender gets an answer and the log the stack.
func (a *API) run(h handler, c *call) (v any, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.cfg.Log.ErrorContext(c.ctx, "panic while serving an operator", "path", c.r.URL.Path, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			v, err = nil, errors.New("panic")
		}
	}()
	return h(c)
}

// actor returns who sent r, and how that is known. Every configured hash is compared, each in constant time.
func (a *API) actor(r *http.Request) (name string, auth audit.Auth, ok bool) {
	found := 0
	match := func(hash string, want func(Admin) string) {
		for _, x := range a.cfg.Admins {
			if h := want(x); h != "" && subtle.ConstantTimeCompare([]byte(hash), []byte(h)) == 1 {
				name, found = x.Name, 1
			}
		}
	}
	if h := r.Header.Get("Authorization"); h != "" {
		auth = audit.ByToken
		if token, ok := strings.CutPrefix(h, "Bearer "); ok {
			match(key.HashToken(token), func(x Admin) string { return x.TokenHash })
		}
	} else if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		auth = audit.ByCertificate
		h := sha256.Sum256(r.TLS.VerifiedChains[0][0].RawSubjectPublicKeyInfo)
		match(hex.EncodeToString(h[:]), func(x Admin) string { return x.CertHash })
	}
	return name, auth, found == 1
}

// flag reads a boolean of the query: present without a value is true.
func (c *call) flag(name string) bool {
	q := c.r.URL.Query()
	return q.Has(name) && q.Get(name) != "false" && q.Get(name) != "0"
}

// decode reads the request's one JSON object into v, strictly. An absent body leaves v as it is where optional.
func (c *call) decode(v any, optional bool) error {
	if c.r.ContentLength == 0 && optional {
		return nil
	}
	if t, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return problem(kindMalformed, "send the body with Content-Type: application/json")
	}
	d := json.NewDecoder(c.r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if optional && errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the object")
		}
	}
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return problem(kindTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxBody))
	case errors.Is(err, io.EOF):
		return problem(kindMalformed, "the body is missing")
	case err != nil:
		return problem(kindMalformed, "the body is not what this call takes: "+strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the sender has left; nobody is there to be told
}
