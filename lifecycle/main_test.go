package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/lifecycle/storetest"
)

// tokenDir holds the SoftHSM tokens of this test binary: the library reads its configuration once in a process.
var tokenDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if tokenDir, err = os.MkdirTemp("", "keyway-lifecycle-"); err == nil {
		defer os.RemoveAll(tokenDir)
		conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokenDir)
		err = os.WriteFile(filepath.Join(tokenDir, "softhsm2.conf"), []byte(conf), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SOFTHSM2_CONF", filepath.Join(tokenDir, "softhsm2.conf"))
	return m.Run()
}

func openStore(t testing.TB) *sqlstore.Store {
	t.Helper()
	s, err := sqlstore.Open(context.Background(), filepath.Join(t.TempDir(), "keyway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// softHSM makes a SoftHSM token and opens it; REQUIRE_SOFTHSM=1 makes the library's absence a failure.
func softHSM(t *testing.T, label string) hsm.Token {
	t.Helper()
	module, err := pkcs11.FindModule("softhsm")
	if err != nil {
		if os.Getenv("REQUIRE_SOFTHSM") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c := pkcs11.Config{Module: module, TokenLabel: label, PIN: hsm.NewPIN([]byte("1234"))}
	err = pkcs11.InitToken(c, hsm.NewPIN([]byte("so-5678")))
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err) // make test-pure; make test runs it
	}
	if err != nil {
		t.Fatal(err)
	}
	tok, err := pkcs11.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

// everyToken runs f with each kind of token; make gives one with a name of its own.
func everyToken(t *testing.T, f func(t *testing.T, make func(name string) hsm.Token)) {
	t.Run("soft", func(t *testing.T) {
		f(t, func(name string) hsm.Token { return soft.New(name) })
	})
	t.Run("softhsm", func(t *testing.T) {
		f(t, func(name string) hsm.Token { return softHSM(t, fmt.Sprintf("%.16s-%s", key.NewID(), name)) })
	})
}

var errBoom = errors.New("boom")

// faults counts steps and fails one of them: before it happens, or, when after is set, once it has happened and its
// answer is lost. The zero value fails nothing. It is safe for concurrent use.
type faults struct {
	mu    sync.Mutex
	step  int // how many there were
	at    int // which one fails; 0 is none
	after bool
	// instead is done just before that step, which then does not fail.
	instead func()
}

// do runs one step.
func (f *faults) do(step func() error) error {
	f.mu.Lock()
	f.step++
	hit, after := f.step == f.at, f.after
	f.mu.Unlock()
	if hit && f.instead != nil {
		f.instead()
		return step()
	}
	if hit && !after {
		return errBoom
	}
	err := step()
	if hit && err == nil {
		err = errBoom
	}
	return err
}

// faultyStore fails whole transactions.
type faultyStore struct {
	lifecycle.Store
	faults *faults
}

func (s faultyStore) View(ctx context.Context, f func(lifecycle.Tx) error) error {
	return s.faults.do(func() error { return s.Store.View(ctx, f) })
}

func (s faultyStore) Update(ctx context.Context, f func(lifecycle.Tx) error) error {
	return s.faults.do(func() error { return s.Store.Update(ctx, f) })
}

// bench is a token whose calls can be failed and whose token objects are counted. Every With has a session of its own.
type bench struct {
	token  hsm.Token
	faults *faults
	mu     sync.Mutex
	live   map[hsm.Handle]string // token objects made and not destroyed, with their labels
	made   int                   // keys generated
	pair   []byte                // PKCS#8 of the RSA key that is imported where one is to be generated, which takes long
}

func newBench(tok hsm.Token, f *faults) *bench {
	return &bench{token: tok, faults: f, live: map[hsm.Handle]string{}}
}

// With runs f with a session.
func (b *bench) With(ctx context.Context, f func(hsm.Keeper) error) error {
	s, err := b.token.OpenSession(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	return f(&faultyKeeper{Keeper: s.(hsm.Keeper), b: b})
}

func (b *bench) labels() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []string{}
	for _, l := range b.live {
		out = append(out, l)
	}
	return out
}

type faultyKeeper struct {
	hsm.Keeper
	b *bench
}

func (k *faultyKeeper) made(s hsm.Spec, do func() (hsm.Handle, error)) (h hsm.Handle, err error) {
	failed := k.b.faults.do(func() error {
		if h, err = do(); err == nil && s.Token {
			k.b.mu.Lock()
			k.b.live[h] = s.Label
			k.b.mu.Unlock()
		}
		return err
	})
	return h, failed
}

func (k *faultyKeeper) Do(op *hsm.Op) error {
	if err := k.b.faults.do(func() error { return k.Keeper.Do(op) }); err != nil {
		op.Err = err
		return err
	}
	return nil
}

func (k *faultyKeeper) Find(c hsm.Class, id []byte) (h hsm.Handle, err error) {
	failed := k.b.faults.do(func() error { h, err = k.Keeper.Find(c, id); return err })
	return h, failed
}

func (k *faultyKeeper) Generate(s hsm.Spec) (hsm.Handle, error) {
	k.b.mu.Lock()
	k.b.made++
	k.b.mu.Unlock()
	if s.Type == hsm.KeyRSA && k.b.pair != nil {
		return k.Import(s, k.b.pair)
	}
	return k.made(s, func() (hsm.Handle, error) { return k.Keeper.Generate(s) })
}

func (k *faultyKeeper) Public(h hsm.Handle) (out []byte, err error) {
	failed := k.b.faults.do(func() error { out, err = k.Keeper.Public(h); return err })
	return out, failed
}

func (k *faultyKeeper) Import(s hsm.Spec, material []byte) (hsm.Handle, error) {
	return k.made(s, func() (hsm.Handle, error) { return k.Keeper.Import(s, material) })
}

func (k *faultyKeeper) WrapKey(kek hsm.Handle, m hsm.Mechanism, h hsm.Handle) (out []byte, err error) {
	failed := k.b.faults.do(func() error { out, err = k.Keeper.WrapKey(kek, m, h); return err })
	return out, failed
}

func (k *faultyKeeper) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, s hsm.Spec) (hsm.Handle, error) {
	return k.made(s, func() (hsm.Handle, error) { return k.Keeper.UnwrapKey(kek, m, blob, s) })
}

func (k *faultyKeeper) Destroy(h hsm.Handle) error {
	return k.b.faults.do(func() error {
		err := k.Keeper.Destroy(h)
		if err == nil {
			k.b.mu.Lock()
			delete(k.b.live, h)
			k.b.mu.Unlock()
		}
		return err
	})
}

// works is custody with a pool called "default", ready to make keys.
type works struct {
	store   lifecycle.Store
	custody *lifecycle.Custody
	token   *bench
	kek     *lifecycle.KEK
	manager *lifecycle.Manager
}

// newWorks sees to it that at the end the log of the store says everything that was done.
func newWorks(t testing.TB, store lifecycle.Store, tok hsm.Token, f *faults) *works {
	t.Helper()
	t.Cleanup(func() { storetest.CheckLog(t, store) })
	w := &works{store: faultyStore{store, f}, token: newBench(tok, f)}
	w.custody = lifecycle.NewCustody(lifecycle.CustodyConfig{Token: w.token, Store: w.store, AutoRoot: true})
	w.manager = lifecycle.NewManager(lifecycle.ManagerConfig{Store: w.store, Custody: w.custody})
	return w
}

// prepare makes the KEKs.
func (w *works) prepare(t testing.TB) *works {
	t.Helper()
	if err := w.custody.Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.kek, err = w.custody.EnsurePool(context.Background(), "default"); err != nil {
		t.Fatal(err)
	}
	return w
}

// provision does for a member what the pool does when it joins.
func provision(ctx context.Context, w *works, member string, token *bench, kek *lifecycle.KEK) error {
	return token.With(ctx, func(k hsm.Keeper) error {
		_, err := k.Find(hsm.ClassSecret, kek.ID[:])
		if !errors.Is(err, hsm.ErrNotFound) {
			return err
		}
		return w.custody.Provision("default", member)(ctx, k)
	})
}
