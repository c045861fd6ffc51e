package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/soft"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// vault is one embedded token for all tests of the package, with a key of each kind: making RSA keys takes long.
type vault struct {
	token    *soft.Token
	sessions sync.Pool // of hsm.Keeper
	handles  sync.Map  // key.ID → hsm.Handle
	keys     []*key.Key
}

var theVault = sync.OnceValue(func() *vault {
	v := &vault{token: soft.New("test")}
	all := key.Originator | key.Recipient
	for _, k := range []struct {
		name string
		alg  key.Algorithm
		u    key.Usage
	}{
		{"k-wrap", key.AES256, 0}, {"k-aes128", key.AES128, 0}, {"k-sign", key.ECP256, 0}, {"k-p384", key.ECP384, 0}, {"k-p521", key.ECP521, 0}, {"k-rsa", key.RSA2048, 0},
		{"k-oaep", key.RSA2048, all &^ (key.Sign | key.Verify | key.MAC | key.VerifyMAC)}, {"k-mac", key.HMACSHA256, 0}, {"k-mac512", key.HMACSHA512, 0},
		{"k-ed", key.Ed25519, 0}, {"other", key.AES256, 0},
	} {
		info, err := k.alg.Info()
		if err != nil {
			panic(err)
		}
		if k.u == 0 {
			k.u = info.Default
		}
		v.keys = append(v.keys, v.make(k.name, k.alg, k.u))
	}
	return v
})

func (v *vault) session() hsm.Keeper {
	if s, ok := v.sessions.Get().(hsm.Keeper); ok {
		return s
	}
	s, err := v.token.OpenSession(context.Background())
	if err != nil {
		panic(err)
	}
	return s.(hsm.Keeper)
}

// make generates a key with one active version.
func (v *vault) make(name string, a key.Algorithm, u key.Usage) *key.Key {
	s := v.session()
	defer v.sessions.Put(s)
	ver := &key.Version{KeyID: key.NewID(), ID: key.NewID(), Name: name, Number: 1, Algorithm: a, Usages: u, Pool: "default", State: key.Active, Created: time.Unix(1e9, 0).UTC()}
	spec, err := hsm.SpecFor(a, u)
	if err != nil {
		panic(err)
	}
	spec.ID, spec.Token = ver.ID[:], true
	h, err := s.Generate(spec)
	if err != nil {
		panic(err)
	}
	v.handles.Store(ver.ID, h)
	if a.Asymmetric() {
		if ver.Public, err = s.Public(h); err != nil {
			panic(err)
		}
	}
	return &key.Key{ID: ver.KeyID, Name: name, Algorithm: a, Usages: u, Pool: "default", Created: ver.Created, Primary: 1, Versions: []*key.Version{ver}}
}

// crypto is a Crypto on the vault: no queue and no failover, but a real token's answers.
type crypto struct {
	*vault
	before func(context.Context, hsm.Op) error // when set, its error is the operation's
	lacks  hsm.MechanismType
	hashes []hsm.Hash
	down   atomic.Bool
	ops    atomic.Int64
}

func (c *crypto) Do(ctx context.Context, k *pool.Key, op hsm.Op) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.ops.Add(1)
	if c.before != nil {
		if err := c.before(ctx, op); err != nil {
			return nil, err
		}
	}
	if c.down.Load() {
		return nil, &pool.Refusal{Err: pool.ErrUnavailable, RetryAfter: time.Second}
	}
	s := c.session()
	defer c.sessions.Put(s)
	if k != nil {
		h, ok := c.handles.Load(k.ID)
		if !ok {
			return nil, pool.ErrKey
		}
		op.Key = h.(hsm.Handle)
	}
	if err := s.Do(&op); err != nil {
		return nil, err
	}
	return op.Out, op.Err
}

func (c *crypto) Has(m hsm.MechanismType) bool { return !c.down.Load() && m != c.lacks }
func (c *crypto) Ready() bool                  { return !c.down.Load() }
func (c *crypto) OAEPHashes() []hsm.Hash {
	if c.down.Load() {
		return nil
	}
	return c.hashes
}

// shelf is a catalogue in memory: Keys, Uses and the directory.
type shelf struct {
	mu    sync.Mutex
	keys  map[string]*key.Key
	used  map[key.ID]uint64
	most  uint64
	fails error                       // of every call to the store behind
	hangs chan struct{}               // not nil: every call waits for it
	onKey func(context.Context) error // called by each read
	epoch atomic.Uint64
	stale atomic.Bool
	reads atomic.Int64
	dir   atomic.Pointer[key.Directory]
}

func (s *shelf) store(ctx context.Context) error {
	s.mu.Lock()
	err, hangs, on := s.fails, s.hangs, s.onKey
	s.mu.Unlock()
	if on != nil {
		if err := on(ctx); err != nil {
			return err
		}
	}
	if hangs != nil {
		select {
		case <-hangs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (s *shelf) Describe(ctx context.Context, name string) (*key.Key, error) {
	s.reads.Add(1)
	if err := s.store(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[name]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%s: %w", name, key.ErrNotFound)
}

func (s *shelf) Key(ctx context.Context, r key.Ref) (*key.Version, error) {
	k, err := s.Describe(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	n := r.Version
	if n == 0 {
		n = k.Primary
	}
	for _, v := range k.Versions {
		if v.Number == n {
			return v, nil
		}
	}
	if r.Version == 0 {
		return nil, fmt.Errorf("%w: %s has no active version", key.ErrState, r.Name)
	}
	return nil, fmt.Errorf("%s: %w", r, key.ErrNotFound)
}

func (s *shelf) Epoch() uint64 { return s.epoch.Load() }

func (s *shelf) Fresh() error {
	if s.stale.Load() {
		return fmt.Errorf("%w: the store has not answered", key.ErrStale)
	}
	return nil
}

func (s *shelf) Reserve(ctx context.Context, id key.ID, n uint64) (uint64, error) {
	if err := s.store(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.most-s.used[id])
	if n == 0 {
		return 0, fmt.Errorf("%w: used up", key.ErrState)
	}
	s.used[id] += n
	return n, nil
}

// change puts a changed copy of a key in its place, as the catalogue does: what was handed out stays as it was.
func (s *shelf) change(name string, f func(*key.Key)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := *s.keys[name]
	k.Versions = slices.Clone(k.Versions)
	for i, v := range k.Versions {
		c := *v
		k.Versions[i] = &c
	}
	f(&k)
	s.keys[name] = &k
	s.epoch.Add(1)
}

// state changes the state of a version.
func (s *shelf) state(name string, n uint32, st key.State) {
	s.change(name, func(k *key.Key) {
		for _, v := range k.Versions {
			if v.Number == n {
				v.State = st
			}
		}
		if k.Primary == n && st != key.Active {
			k.Primary = 0
		}
	})
}

// rotate adds a primary version with material of its own; the old one is deactivated.
func (g *gate) rotate(name string) {
	g.t.Helper()
	g.shelf.change(name, func(k *key.Key) {
		for _, v := range k.Versions {
			if v.State == key.Active {
				v.State = key.Deactivated
			}
		}
		v := g.crypto.make(name, k.Algorithm, k.Usages).Versions[0]
		v.KeyID, v.Number = k.ID, uint32(len(k.Versions)+1)
		k.Versions, k.Primary = append(k.Versions, v), v.Number
	})
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// gate is a server on loopback with everything behind it.
type gate struct {
	t      testing.TB
	s      *Server
	crypto *crypto
	shelf  *shelf
	log    *lines
	addr   string
	url    string
	token  string
	client *http.Client
	served chan error
}

const (
	appToken  = "kw_app_0123456789abcdef0123456789abcdef"
	slowToken = "kw_slow_0123456789abcdef0123456789abcdef"
	signToken = "kw_sign_0123456789abcdef0123456789abcdef"
	offToken  = "kw_off_0123456789abcdef0123456789abcdef"
)

func directory(more ...key.Client) *key.Directory {
	clients := append([]key.Client{
		{Name: "app", TokenHashes: []string{key.HashToken(appToken)}, Groups: []string{"apps"}},
		{Name: "slow", TokenHashes: []string{key.HashToken(slowToken)}, Groups: []string{"apps"}, Rate: 10, Burst: 5},
		{Name: "signer", TokenHashes: []string{key.HashToken(signToken)}},
		{Name: "off", TokenHashes: []string{key.HashToken(offToken)}, Groups: []string{"apps"}, Disabled: true},
	}, more...)
	return key.NewDirectory(clients, []key.Grant{
		{Group: "apps", Pattern: "k-*", Usages: key.Originator | key.Recipient},
		{Client: "signer", Pattern: "k-s?gn", Usages: key.Sign},
	})
}

// config returns a Config on fakes of its own.
func config() (Config, *crypto, *shelf, *lines) {
	c := &crypto{vault: theVault(), hashes: []hsm.Hash{hsm.SHA512, hsm.SHA256}}
	sh := &shelf{keys: map[string]*key.Key{}, used: map[key.ID]uint64{}, most: 1 << 32}
	for _, k := range c.keys {
		sh.keys[k.Name] = k
	}
	sh.dir.Store(directory())
	sh.epoch.Store(1)
	l := &lines{}
	return Config{
		Pools:       func(name string) (Crypto, bool) { return c, name == "default" },
		DefaultPool: "default", Keys: sh, Uses: sh, Directory: sh.dir.Load, MaxBody: 64 << 10,
		Log: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, c, sh, l
}

func newGate(t testing.TB, change func(*Config)) *gate {
	t.Helper()
	cfg, c, sh, l := config()
	if change != nil {
		change(&cfg)
	}
	g := &gate{t: t, crypto: c, shelf: sh, log: l, token: appToken, served: make(chan error, 1)}
	var err error
	if g.s, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr, g.url = ln.Addr().String(), "http://"+ln.Addr().String()
	if cfg.TLS != nil {
		g.url = "https://" + g.addr
	}
	g.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}, Timeout: 10 * time.Second}
	go func() { g.served <- g.s.Serve(ln) }()
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = g.s.Shutdown(ctx)
		if err := <-g.served; err != nil {
			t.Error("Serve:", err)
		}
	})
	return g
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	raw    string
	closes bool // the connection ends after it
	body   map[string]any
}

func (g *gate) send(method, path, body string) answer {
	g.t.Helper()
	a, err := g.try(method, path, body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (g *gate) try(method, path, body string) (answer, error) {
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if g.token != "" {
		req.Header.Set("Authorization", "Bearer "+g.token)
	}
	res, err := g.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header, raw: string(b), closes: res.Close}
	if strings.Contains(res.Header.Get("Content-Type"), "json") && len(b) > 0 {
		if err := json.Unmarshal(b, &a.body); err != nil {
			return a, fmt.Errorf("the answer is not JSON: %w: %.200s", err, b)
		}
	}
	if err := theDescription().hold(method, path, body, a); err != nil {
		g.t.Errorf("not as the document says: %v", err)
	}
	return a, nil
}

// key sends an operation with a key.
func (g *gate) key(name, op, body string) answer {
	g.t.Helper()
	return g.send("POST", "/api/v1/keys/"+name+"/"+op, body)
}

// ok is key for a request that must succeed.
func (g *gate) ok(name, op, format string, a ...any) map[string]any {
	g.t.Helper()
	got := g.key(name, op, fmt.Sprintf(format, a...))
	if got.status != 200 {
		g.t.Fatalf("%s %s: %d %s", op, name, got.status, got.raw)
	}
	return got.body
}

// refused checks that an answer is a problem of a kind, whole in every part.
func (g *gate) refused(a answer, kind Kind, inDetail string) {
	g.t.Helper()
	k := kinds[kind]
	detail, _ := a.body["detail"].(string)
	if a.status != k.status || a.body["kind"] != string(kind) || !strings.Contains(detail, inDetail) {
		g.t.Errorf("%d %s, want %d %s about %q", a.status, a.raw, k.status, kind, inDetail)
		return
	}
	if a.body["type"] != "urn:keyway:problem:"+string(kind) || a.body["title"] != k.title || a.body["status"] != float64(k.status) || a.body["request_id"] == "" {
		g.t.Errorf("not a whole problem document: %s", a.raw)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		g.t.Errorf("a problem of type %q", ct)
	}
	if after := a.header.Get("Retry-After"); (after != "") != k.again || k.again && after != fmt.Sprint(a.body["retry_after"]) {
		g.t.Errorf("%s: Retry-After %q, retry_after %v", kind, after, a.body["retry_after"])
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func unb64(t testing.TB, v any) []byte {
	t.Helper()
	s, _ := v.(string)
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || s == "" {
		t.Fatalf("%v is not base64: %v", v, err)
	}
	return b
}

// dial opens a connection of raw bytes.
func (g *gate) dial() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

var errBoom = errors.New("boom")
