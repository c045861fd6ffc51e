//go:build linux && cgo

package lifecycle_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/soft"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// yard is a pool whose members' tokens are found and opened as in a node without isolation, PIN file and all.
type yard struct {
	t     *testing.T
	works *works
	m     *lifecycle.Membership
	dir   string
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t, works: newWorks(t, openStore(t), soft.New("custody"), &faults{}).prepare(t), dir: t.TempDir()}
	p, err := pool.New(pool.Config{Name: "default"})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	y.m = lifecycle.NewMembership(lifecycle.MembershipConfig{Store: y.works.store, Pool: p, PoolName: "default", KEK: y.works.kek, Custody: y.works.custody,
		Open: func(r lifecycle.MemberRecord) func(context.Context) (hsm.Token, error) {
			return func(ctx context.Context) (hsm.Token, error) {
				pin, err := hsm.ReadPIN(r.PINFile)
				if err != nil {
					return nil, err
				}
				defer pin.Wipe()
				tok, err := pkcs11.Open(ctx, pkcs11.Config{Module: r.Module, TokenLabel: r.TokenLabel, TokenSerial: r.TokenSerial, InitArgs: r.InitArgs, PIN: pin, PINVouched: hsm.IsVouched(ctx)})
				if err != nil {
					return nil, err
				}
				return tok, nil
			}
		}})
	return y
}

func realModule(t *testing.T, kind, require string) string {
	t.Helper()
	m, err := pkcs11.FindModule(kind)
	if err != nil {
		if os.Getenv(require) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return m
}

// record is a member on a new SoftHSM token, reached through a module, with a PIN file of its own that is right.
func (y *yard) record(name, module string) lifecycle.MemberRecord {
	y.t.Helper()
	label := fmt.Sprintf("%.16s-%s", key.NewID(), name)
	must(y.t, pkcs11.InitToken(pkcs11.Config{Module: module, TokenLabel: label, PIN: hsm.NewPIN([]byte("1234"))}, hsm.NewPIN([]byte("so-5678"))))
	r := lifecycle.MemberRecord{Name: name, Driver: "pkcs11", Module: module, TokenLabel: label, PINFile: filepath.Join(y.dir, name+".pin"), Isolation: "none", Sessions: 2}
	y.pin(r, "1234")
	return r
}

func (y *yard) pin(r lifecycle.MemberRecord, pin string) {
	y.t.Helper()
	must(y.t, os.WriteFile(r.PINFile, []byte(pin+"\n"), 0o600))
}

func (y *yard) misfit(r lifecycle.MemberRecord, o lifecycle.AddOptions, cause lifecycle.Cause, words ...string) {
	y.t.Helper()
	misfits(y.t, y.works.store, y.m, r, o, cause, words...)
}

func (y *yard) add(r lifecycle.MemberRecord, o lifecycle.AddOptions) lifecycle.Added {
	y.t.Helper()
	added, err := y.m.Add(context.Background(), "test", r, o)
	must(y.t, err)
	(&site{t: y.t, m: y.m}).until(r.Name, pool.Active)
	return added
}

// files are the objects that SoftHSM keeps, by name. The token's own entry is left out: SoftHSM writes its flags at every login.
func files(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(tokenDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "token.object" || filepath.Ext(path) != ".object" {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	}))
	return out
}

// asBefore checks that no token has changed.
func asBefore(t *testing.T, before map[string]string) {
	t.Helper()
	after := files(t)
	for path, b := range after {
		if old, there := before[path]; !there || old != b {
			t.Errorf("%s was %q and is %q", path, old, b)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, were %d", len(after), len(before))
	}
}

// The module that makes calls fail is built once.
var (
	built    sync.Once
	shimmed  faulthsm.Binaries
	errBuild error
)

// shim puts the module that makes calls fail before SoftHSM, and returns how many PINs have been tried through it.
func shim(t *testing.T) (m *faulthsm.Module, logins func() int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	real := realModule(t, "softhsm", "REQUIRE_SOFTHSM")
	built.Do(func() { shimmed, errBuild = faulthsm.Build(ctx, tokenDir) })
	must(t, errBuild)
	m, err := faulthsm.Install(t.TempDir(), shimmed.Module, real)
	must(t, err)
	return m, func() int {
		t.Helper()
		c, err := m.Conn(t.Context(), os.Getpid())
		must(t, err)
		defer c.Close()
		all, err := c.Stats(t.Context())
		must(t, err)
		return int(all["C_Login"].Calls)
	}
}

// Each wrong PIN is tried once, and none where the token says that it might be the last.
func TestATokenThatLocksItsPINIsSpared(t *testing.T) {
	y := newYard(t)
	m, logins := shim(t)
	r := y.record("m1", m.Path)
	must(t, m.Apply(t.Context(), faulthsm.PINTries(3)))
	at := logins() // making the token logged in too
	tries := func(want int) {
		t.Helper()
		if got := logins() - at; got != want {
			t.Errorf("%d PINs were tried, want %d", got, want)
		}
	}
	before := files(t)
	y.pin(r, "wrong-one")
	y.misfit(r, lifecycle.AddOptions{}, lifecycle.CausePIN, "CKR_PIN_INCORRECT", r.PINFile)
	tries(1)
	y.misfit(r, lifecycle.AddOptions{}, lifecycle.CausePINKnown, r.PINFile)
	other := r
	other.Name, other.PINFile = "m2", filepath.Join(y.dir, "copy")
	y.pin(other, "wrong-one")
	y.misfit(other, lifecycle.AddOptions{}, lifecycle.CausePINKnown)
	tries(1)
	// The right one now: the token says that a wrong one was tried, so somebody must vouch.
	y.pin(r, "1234")
	y.misfit(r, lifecycle.AddOptions{}, lifecycle.CausePINLocked, "a wrong PIN has been tried", "--force")
	tries(1)
	y.pin(r, "wrong-two")
	y.misfit(r, lifecycle.AddOptions{Force: true}, lifecycle.CausePIN)
	tries(2)
	// One more would lock it, whoever vouches.
	y.misfit(r, lifecycle.AddOptions{Force: true}, lifecycle.CausePINLocked, "one more wrong PIN locks it")
	tries(2)
	asBefore(t, before)
	c, err := m.Conn(t.Context(), os.Getpid())
	must(t, err)
	defer c.Close()
	must(t, c.ResetPINs(t.Context())) // the security officer
	y.pin(r, "1234")
	y.add(r, lifecycle.AddOptions{})
}

func TestATokensClockMustBeRight(t *testing.T) {
	y := newYard(t)
	m, _ := shim(t)
	r := y.record("m1", m.Path)
	clock := func(s ...faulthsm.Statement) {
		t.Helper()
		must(t, m.Apply(t.Context(), s...))
	}
	before := files(t)
	clock(faulthsm.Clock{Ahead: 10 * time.Minute})
	y.misfit(r, lifecycle.AddOptions{Partial: true, Force: true}, lifecycle.CauseClock, "ahead of this machine's; 2m0s are allowed", time.Now().UTC().Format("2006-01"))
	clock(faulthsm.Clock{Ahead: -10 * time.Minute})
	y.misfit(r, lifecycle.AddOptions{}, lifecycle.CauseClock, "behind this machine's")
	asBefore(t, before)
	clock(faulthsm.Clock{Ahead: time.Minute})
	if added := y.add(r, lifecycle.AddOptions{}); !slices.Contains(added.Found, "its clock is right") {
		t.Errorf("%+v", added)
	}
	r = y.record("m2", m.Path)
	clock(faulthsm.Clock{Absent: true})
	if added := y.add(r, lifecycle.AddOptions{}); slices.Contains(added.Found, "its clock is right") {
		t.Errorf("a token without a clock: %+v", added)
	}
}

func TestWhatIsNotThereIsTold(t *testing.T) {
	y := newYard(t)
	r := y.record("m1", realModule(t, "softhsm", "REQUIRE_SOFTHSM"))
	before := files(t)
	f := func(change func(*lifecycle.MemberRecord), cause lifecycle.Cause, words ...string) {
		t.Helper()
		x := r
		change(&x)
		y.misfit(x, lifecycle.AddOptions{}, cause, words...)
	}
	f(func(x *lifecycle.MemberRecord) { x.Module = "/nowhere/lib.so" }, lifecycle.CauseMissing, "/nowhere/lib.so not found")
	f(func(x *lifecycle.MemberRecord) { x.TokenLabel = "no-such-token" }, lifecycle.CauseMissing, "no-such-token", r.TokenLabel)
	f(func(x *lifecycle.MemberRecord) { x.PINFile = "/nowhere/pin" }, lifecycle.CausePINFile, "/nowhere/pin")
	must(t, os.Chmod(r.PINFile, 0o644))
	f(func(*lifecycle.MemberRecord) {}, lifecycle.CausePINFile, "may be read by everybody")
	must(t, os.Chmod(r.PINFile, 0o600))
	asBefore(t, before)
	y.add(r, lifecycle.AddOptions{})
	// The same token by the same words is known without a login, by other words from what it says of itself, Root KEK or not.
	f(func(x *lifecycle.MemberRecord) { x.Name, x.PINFile = "m2", "/nowhere/pin" }, lifecycle.CauseTaken, "member m1 of pool default")
	must(t, y.works.custody.ForgetRoot(t.Context(), "test", "default/m1"))
	serial := y.m.Stat().Members[0].Serial
	f(func(x *lifecycle.MemberRecord) { x.Name, x.TokenLabel, x.TokenSerial = "m2", "", serial }, lifecycle.CauseTaken, "member m1 of pool default")
}

// NSS has no EdDSA.
func TestNSSJoinsAPoolWithEd25519OnlyInPart(t *testing.T) {
	y := newYard(t)
	_, err := y.works.manager.CreateKey(context.Background(), "test", lifecycle.KeyRequest{Name: "ed", Algorithm: key.Ed25519})
	must(t, err)
	db := filepath.Join(y.dir, "nss")
	must(t, os.Mkdir(db, 0o700))
	r := lifecycle.MemberRecord{Name: "m1", Driver: "pkcs11", Module: realModule(t, "nss", "REQUIRE_NSS"), TokenLabel: "keyway", PINFile: filepath.Join(y.dir, "pin"), Isolation: "none", Sessions: 1,
		InitArgs: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='keyway' minPWLen=0", db)}
	must(t, pkcs11.InitToken(pkcs11.Config{Module: r.Module, TokenLabel: r.TokenLabel, InitArgs: r.InitArgs, PIN: hsm.NewPIN([]byte("1234"))}, hsm.NewPIN(nil)))
	y.pin(r, "1234")
	y.misfit(r, lifecycle.AddOptions{}, lifecycle.CauseMechanisms, "CKM_EDDSA, needed by ed (ed25519)", "--partial")
	added := y.add(r, lifecycle.AddOptions{Partial: true})
	if !slices.ContainsFunc(added.Found, func(s string) bool { return strings.HasPrefix(s, "it lacks CKM_EDDSA") }) {
		t.Errorf("%+v", added)
	}
}
