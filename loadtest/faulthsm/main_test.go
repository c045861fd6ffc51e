//go:build linux && cgo

package faulthsm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
)

// roleEnv in the environment makes the test binary a worker.
const roleEnv = "FAULTHSM_WORKER_TEST"

// dir is where the binaries and tokens of this run are.
var dir string

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		if err := worker.Serve(openInWorker); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if dir, err = os.MkdirTemp("", "faulthsm-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	conf, err := softHSMConfig(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SOFTHSM2_CONF", conf) // read once in a process
	return m.Run()
}

func softHSMConfig(dir string) (string, error) {
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "softhsm2.conf")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", err
	}
	return conf, os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600)
}

func pin(s string) hsm.PIN { return hsm.NewPIN([]byte(s)) }

const userPIN, soPIN = "1234", "so-5678"

// realModule finds a software token, or skips saying so; REQUIRE_SOFTHSM=1 and REQUIRE_NSS=1 make its absence a failure.
func realModule(t testing.TB, kind, require string) string {
	t.Helper()
	p, err := pkcs11.FindModule(kind)
	if err != nil {
		if os.Getenv(require) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

// number makes names that are used once.
var numbers atomic.Int64

// install puts a module of its own before a real one.
func install(t testing.TB, real string) *Module {
	t.Helper()
	d, err := os.MkdirTemp(dir, "module-")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Install(d, modulePath(t), real)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// rig is a token behind a module, and the module's socket.
type rig struct {
	testing.TB
	m    *Module
	conn *Conn
	cfg  pkcs11.Config
	tok  *pkcs11.Token
}

// ctx ends with the test, and long before the test binary's own limit.
func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	r.Cleanup(cancel)
	return ctx
}

// softHSM makes a token of its own on SoftHSM behind a module of its own.
func softHSM(t testing.TB) *rig {
	t.Helper()
	m := install(t, realModule(t, "softhsm", "REQUIRE_SOFTHSM"))
	cfg := pkcs11.Config{Module: m.Path, TokenLabel: fmt.Sprintf("fault-%d", numbers.Add(1)), PIN: pin(userPIN)}
	if err := pkcs11.InitToken(cfg, pin(soPIN)); err != nil {
		t.Fatal(err)
	}
	return newRig(t, m, cfg)
}

// nss is the token that NSS has in this process, behind a module of its own: NSS is initialised once in a process.
func nss(t testing.TB) *rig {
	t.Helper()
	m := install(t, realModule(t, "nss", "REQUIRE_NSS"))
	db := filepath.Join(dir, "nss")
	first := os.Mkdir(db, 0o700) == nil
	cfg := pkcs11.Config{
		Module: m.Path, TokenLabel: "keyway", PIN: pin("1234-nss"),
		InitArgs: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='keyway' minPWLen=0", db),
	}
	if first {
		if err := pkcs11.InitToken(cfg, pin("")); err != nil {
			t.Fatal(err)
		}
	}
	return newRig(t, m, cfg)
}

func newRig(t testing.TB, m *Module, cfg pkcs11.Config) *rig {
	t.Helper()
	r := &rig{TB: t, m: m, cfg: cfg}
	r.open()
	c, err := m.Conn(r.ctx(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	r.conn = c
	t.Cleanup(func() {
		_ = c.Clear(context.Background())
		_ = c.Close()
	})
	return r
}

// open opens the token; it is closed when the test ends.
func (r *rig) open() {
	r.Helper()
	tok, err := pkcs11.Open(context.Background(), r.cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.tok = tok
	r.Cleanup(func() { _ = tok.Close() })
}

func (r *rig) add(statements ...Statement) {
	r.Helper()
	if err := r.conn.Add(r.ctx(), statements...); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) remove(id string) {
	r.Helper()
	if err := r.conn.Remove(r.ctx(), id); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) status() Status {
	r.Helper()
	s, err := r.conn.Status(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	return s
}

func (r *rig) item(id string) Item {
	r.Helper()
	i, err := r.conn.Item(r.ctx(), id)
	if err != nil {
		r.Fatal(err)
	}
	return i
}

func (r *rig) session() hsm.Keeper {
	r.Helper()
	s, err := r.tok.OpenSession(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = s.Close() })
	return s.(hsm.Keeper)
}

// Keys of the tests.
var (
	signSpec = hsm.Spec{Type: hsm.KeyEC, Bits: 256, May: hsm.MaySign}
	macSpec  = hsm.Spec{Type: hsm.KeyGeneric, Bits: 256, May: hsm.MaySign}
	aesSpec  = hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayEncrypt | hsm.MayDecrypt}
)

func (r *rig) generate(s hsm.Keeper, spec hsm.Spec) hsm.Handle {
	r.Helper()
	h, err := s.Generate(spec)
	if err != nil {
		r.Fatal(err)
	}
	return h
}

// mac is the operation of most tests: cheap, and the same result each time.
func mac(key hsm.Handle) *hsm.Op {
	return &hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: key, In: []byte("message")}
}

// codeOf is the code in an error, OK when it holds none.
func codeOf(err error) hsm.Code {
	var e *hsm.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return hsm.OK
}

// macs does n operations and returns which of them (from 1) failed. They stay on one session, so codes that lose it end the test.
func (r *rig) macs(s hsm.Session, key hsm.Handle, n int) []int {
	r.Helper()
	var failed []int
	for i := 1; i <= n; i++ {
		op := mac(key)
		if err := s.Do(op); err != nil {
			r.Fatalf("operation %d: the session is lost: %v", i, err)
		}
		if op.Err != nil {
			failed = append(failed, i)
		}
	}
	return failed
}

// fails is a rule that lets calls fail with a code that leaves their session as it is.
func fails(id string, on ...string) Rule {
	return Rule{ID: id, On: on, Do: []Effect{Return(hsm.FunctionFailed)}}
}

// command runs a program and returns what it printed.
func command(t testing.TB, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
