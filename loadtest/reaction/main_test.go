//go:build linux && cgo

package reaction

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
	"keyway/lifecycle/key"
	"keyway/loadtest/faulthsm"
)

// roleEnv in the environment makes the test binary a worker.
const roleEnv = "KEYWAY_REACTION_WORKER"

const userPIN, soPIN = "1234-user", "5678-officer"

// atOnce is how many rows run at once: nearly all of their time is waiting.
const atOnce = 16

// dir is where the module and the tokens of this run are.
var dir string

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		if err := worker.Serve(openInWorker); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", fmt.Sprint(atOnce)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if dir, err = os.MkdirTemp("", "keyway-reaction-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	conf, err := softHSMConfig(filepath.Join(dir, "here"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SOFTHSM2_CONF", conf) // read once in a process
	return m.Run()
}

// softHSMConfig makes the configuration of a SoftHSM whose tokens are in d.
func softHSMConfig(d string) (string, error) {
	if err := os.MkdirAll(filepath.Join(d, "tokens"), 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(d, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", filepath.Join(d, "tokens"))
	return conf, os.WriteFile(conf, []byte(text), 0o600)
}

// place is where a token is, and how it is opened but for the module that stands before it.
type place struct {
	Real, Label, InitArgs string
	conf                  string // SOFTHSM2_CONF of a worker
}

// params tells a worker which token to open.
type params struct {
	Module, Label, InitArgs, Profile string
	Vendor                           hsm.Vendor
	Vouched                          bool
}

func (p params) config(pin hsm.PIN) pkcs11.Config {
	return pkcs11.Config{Module: p.Module, TokenLabel: p.Label, InitArgs: p.InitArgs, Vendor: p.Vendor, Profile: p.Profile, PIN: pin, PINVouched: p.Vouched}
}

func openInWorker(ctx context.Context, raw json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
	var p params
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, err
	}
	return pkcs11.Open(ctx, p.config(pin))
}

// find finds a software token, or skips saying so; REQUIRE_SOFTHSM=1 and REQUIRE_NSS=1 make its absence a failure.
func find(t testing.TB, kind, require string) string {
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

// kekID names the pool KEK, whose value the tests know so that they can make blobs for it.
var (
	kekID    = key.ID{0xEE, 1}
	kekValue = [32]byte{7, 7, 7}
)

// prepare makes a token that holds the pool KEK.
func prepare(p place) error {
	cfg := params{Module: p.Real, Label: p.Label, InitArgs: p.InitArgs}.config(hsm.NewPIN([]byte(userPIN)))
	if err := pkcs11.InitToken(cfg, hsm.NewPIN([]byte(soPIN))); err != nil {
		return err
	}
	tok, err := pkcs11.Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	defer tok.Close()
	s, err := tok.OpenSession(context.Background())
	if err != nil {
		return err
	}
	spec := hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kekID[:], Label: "kek", Token: true, May: hsm.MayWrap | hsm.MayUnwrap}
	_, err = s.(hsm.Keeper).Import(spec, kekValue[:])
	return err
}

// tokens are made once, before the first row: SoftHSM's tokens for the rows in this process, and of each kind one to copy
// for workers.
var tokens struct {
	once   sync.Once
	err    error
	module string     // faulthsm.so
	here   chan place // each is one row's at a time
}

func ready(t testing.TB) {
	t.Helper()
	real := find(t, "softhsm", "REQUIRE_SOFTHSM")
	tokens.once.Do(func() {
		built := make(chan error, 1)
		go func() {
			b, err := faulthsm.Build(context.Background(), dir)
			tokens.module = b.Module
			built <- err
		}()
		tokens.here = make(chan place, atOnce)
		for i := range atOnce {
			p := place{Real: real, Label: fmt.Sprintf("here-%d", i)}
			if tokens.err = prepare(p); tokens.err != nil {
				break
			}
			if i == 0 { // a copy with this one only
				if tokens.err = os.CopyFS(filepath.Join(dir, "softhsm-template"), os.DirFS(filepath.Join(dir, "here", "tokens"))); tokens.err != nil {
					break
				}
			}
			tokens.here <- p
		}
		if err := <-built; tokens.err == nil {
			tokens.err = err
		}
	})
	if tokens.err != nil {
		t.Fatal(tokens.err)
	}
}

// borrow returns a SoftHSM token in this process, which is given back when the test ends.
func borrow(t testing.TB) place {
	t.Helper()
	p := <-tokens.here
	t.Cleanup(func() { tokens.here <- p })
	return p
}

// softHSMOfItsOwn returns a SoftHSM token that one worker after another may open.
func softHSMOfItsOwn(t testing.TB) place {
	t.Helper()
	d := t.TempDir()
	conf, err := softHSMConfig(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(d, "tokens"), os.DirFS(filepath.Join(dir, "softhsm-template"))); err != nil {
		t.Fatal(err)
	}
	return place{Real: find(t, "softhsm", "REQUIRE_SOFTHSM"), Label: "here-0", conf: conf}
}

var nssOnce struct {
	sync.Once
	err error
}

func nssArgs(db string) string {
	return fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='reaction' minPWLen=0", db)
}

// nss returns the token that NSS has in this process, or a copy of it for workers. NSS has one in a process, so rows with
// the former must not run at once.
func nss(t testing.TB, isolated bool) place {
	t.Helper()
	p := place{Real: find(t, "nss", "REQUIRE_NSS"), Label: "reaction", InitArgs: nssArgs(filepath.Join(dir, "nss"))}
	nssOnce.Do(func() {
		if nssOnce.err = os.Mkdir(filepath.Join(dir, "nss"), 0o700); nssOnce.err == nil {
			nssOnce.err = prepare(p)
		}
		if nssOnce.err == nil {
			nssOnce.err = os.CopyFS(filepath.Join(dir, "nss-template"), os.DirFS(filepath.Join(dir, "nss")))
		}
	})
	if nssOnce.err != nil {
		t.Fatal(nssOnce.err)
	}
	if isolated {
		d := filepath.Join(t.TempDir(), "nss")
		if err := os.CopyFS(d, os.DirFS(filepath.Join(dir, "nss-template"))); err != nil {
			t.Fatal(err)
		}
		p.InitArgs = nssArgs(d)
	}
	return p
}
