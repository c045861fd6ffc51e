//go:build linux && cgo

package reaction

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// setup is how a row's member a is.
type setup struct {
	nss      bool
	isolated bool
	vendor   hsm.Vendor // "": what the token says
	sessions int        // default 1
	profile  string     // a file
	pin      string
	vouched  bool
	alone    bool // without the healthy member b
	cfg      pool.Config
	memory   int64
	before   []faulthsm.Statement // in force before the token is opened
	refused  bool                 // a is not expected to serve
}

// rig is a pool of a member a, whose token can be made to fail, and a healthy member b.
type rig struct {
	*testing.T
	setup
	keys *keys
	m    *faulthsm.Module
	at   place
	pool *pool.Pool
	b    *witness
	log  *lines

	opens   atomic.Int64 // of a's token
	latches atomic.Int64

	mu    sync.Mutex
	conns map[int]*faulthsm.Conn
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// within bounds what a test waits for, on a machine that does much else.
const within = 20 * time.Second

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	ready(t)
	k, err := theKeys()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{T: t, setup: s, keys: k, log: &lines{}, b: newWitness(), conns: map[int]*faulthsm.Conn{}}
	switch {
	case s.nss:
		r.at = nss(t, s.isolated)
	case s.isolated:
		r.at = softHSMOfItsOwn(t)
	default:
		r.at = borrow(t)
	}
	home, err := os.MkdirTemp(dir, "module-")
	if err != nil {
		t.Fatal(err)
	}
	if r.m, err = faulthsm.Install(home, tokens.module, r.at.Real); err != nil {
		t.Fatal(err)
	}
	if len(s.before) > 0 {
		if err := r.m.Write(s.before...); err != nil {
			t.Fatal(err)
		}
	}
	cfg := s.cfg
	cfg.Name, cfg.Log = "reaction", slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if cfg.CanaryEvery == 0 {
		cfg.CanaryEvery = 10 * time.Second // the rows make their own work
	}
	if r.pool, err = pool.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	if !s.alone {
		r.add(pool.MemberConfig{Name: "b", Sessions: 2, Open: func(context.Context) (hsm.Token, error) { return r.b, nil }, Provision: provision, KEK: kekID[:]})
		r.until("b serves", func() bool { return r.stat("b").LastCanaryOK })
		r.b.hold(r.pool)
	}
	r.add(pool.MemberConfig{
		Name: "a", Sessions: max(1, s.sessions), KEK: kekID[:], MaxMemory: s.memory, Open: r.open,
		OnLatch: func(string, string) { r.latches.Add(1) },
	})
	if !s.refused {
		r.until("a serves", func() bool { return r.stat("a").State == pool.Active })
	}
	return r
}

func (r *rig) add(m pool.MemberConfig) {
	r.Helper()
	if err := r.pool.Add(m); err != nil {
		r.Fatal(err)
	}
}

// provision puts the pool KEK on b's token.
func provision(_ context.Context, k hsm.Keeper) error {
	_, err := k.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kekID[:], Token: true, May: hsm.MayWrap | hsm.MayUnwrap}, kekValue[:])
	return err
}

// open opens a's token, in this process or in a worker.
func (r *rig) open(ctx context.Context) (hsm.Token, error) {
	r.opens.Add(1)
	pin := hsm.NewPIN([]byte(userPIN))
	if r.pin != "" {
		pin = hsm.NewPIN([]byte(r.pin))
	}
	p := params{Module: r.m.Path, Label: r.at.Label, InitArgs: r.at.InitArgs, Vendor: r.vendor, Profile: r.profile, Vouched: r.vouched}
	if !r.isolated {
		t, err := pkcs11.Open(ctx, p.config(pin))
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w, err := worker.Spawn(ctx, worker.Config{
		Name: "a", Argv: []string{self}, Env: []string{roleEnv + "=1", "SOFTHSM2_CONF=" + r.at.conf}, Params: p, PIN: pin,
		Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// close lets go what hangs, then closes the pool, and shows the log of a test that failed.
func (r *rig) close() {
	r.b.release()
	_ = r.m.Write()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if all, err := r.m.Conns(ctx); err == nil {
		for _, c := range all {
			_ = c.Clear(ctx)
			_ = c.Close()
		}
	}
	if err := r.pool.Close(); err != nil {
		r.Error(err)
	}
	for _, c := range r.conns {
		_ = c.Close()
	}
	if r.Failed() {
		r.Logf("the pool said:\n%s", r.log)
	}
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), within)
	r.Cleanup(cancel)
	return ctx
}

// until waits for something that is to come about.
func (r *rig) until(what string, is func() bool) {
	r.Helper()
	for begun := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > within {
			r.Fatalf("not after %s: %s; a is %+v", within, what, r.stat("a"))
		}
	}
}

func (r *rig) stat(name string) pool.MemberStat {
	for _, m := range r.pool.Stat().Members {
		if m.Name == name {
			return m
		}
	}
	return pool.MemberStat{}
}

// conn is the socket of the process in which a's token is now.
func (r *rig) conn() *faulthsm.Conn {
	r.Helper()
	pid := os.Getpid()
	if r.isolated {
		r.until("a has a worker", func() bool { pid = r.stat("a").PID; return pid != 0 })
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.conns[pid]; c != nil {
		return c
	}
	c, err := r.m.Conn(r.ctx(), pid)
	if err != nil {
		r.Fatal(err)
	}
	r.conns[pid] = c
	return c
}

// force puts statements into force in a's process.
func (r *rig) force(statements ...faulthsm.Statement) {
	r.Helper()
	if err := r.conn().Add(r.ctx(), statements...); err != nil {
		r.Fatal(err)
	}
}

// heal takes everything out of force.
func (r *rig) heal() {
	r.Helper()
	if err := r.m.Write(); err != nil {
		r.Fatal(err)
	}
	if err := r.conn().Clear(r.ctx()); err != nil {
		r.Fatal(err)
	}
}

// calls are the calls of a function that a's process has made.
func (r *rig) calls(fn string) int64 {
	r.Helper()
	s, err := r.conn().Stats(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	return s[fn].Calls
}

// fired is how many calls a rule has acted on.
func (r *rig) fired(id string) int64 {
	r.Helper()
	i, err := r.conn().Item(r.ctx(), id)
	if err != nil {
		r.Fatal(err)
	}
	return i.Fired
}

// do runs an operation once, checks its result and tells which member answered.
func (r *rig) do(name string) (by string, err error) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), within)
	defer cancel()
	return r.doWithin(ctx, name)
}

func (r *rig) doWithin(ctx context.Context, name string) (by string, err error) {
	r.Helper()
	a := r.keys.asks(name)
	before := r.b.answered[a.op.Kind].Load()
	out, err := r.pool.Do(ctx, a.key, a.op)
	if err != nil {
		return "", err
	}
	if err := a.check(out); err != nil {
		r.Errorf("%s: a wrong result left the pool: %v", name, err)
	}
	if r.b.answered[a.op.Kind].Load() > before {
		return "b", nil
	}
	return "a", nil
}

// both runs a test in this process and in a worker.
func both(t *testing.T, s setup, f func(*rig)) {
	for _, isolated := range []bool{false, true} {
		s.isolated = isolated
		alone(t, s, f)
	}
}

func alone(t *testing.T, s setup, f func(*rig)) {
	t.Run(where(s), func(t *testing.T) {
		if !s.nss || s.isolated {
			t.Parallel()
		}
		f(newRig(t, s))
	})
}

func where(s setup) string {
	n := "here"
	if s.isolated {
		n = "worker"
	}
	if s.nss {
		n = "nss-" + n
	}
	if s.vendor != "" {
		n = fmt.Sprintf("%s-%s", s.vendor, n)
	}
	return n
}
