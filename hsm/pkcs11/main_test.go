//go:build cgo

package pkcs11

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"keyway/hsm"
)

// tokenDir holds the tokens of this test binary: SoftHSM reads its configuration once in a process.
var tokenDir string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if tokenDir, err = os.MkdirTemp("", "keyway-pkcs11-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tokenDir)
	conf := filepath.Join(tokenDir, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", filepath.Join(tokenDir, "tokens"))
	for _, d := range []string{"tokens", "nss"} {
		if err := os.Mkdir(filepath.Join(tokenDir, d), 0o700); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("SOFTHSM2_CONF", conf)
	return m.Run()
}

func pin(s string) hsm.PIN { return hsm.NewPIN([]byte(s)) }

// module finds a software token, or skips saying so; REQUIRE_SOFTHSM=1 and REQUIRE_NSS=1 make its absence a failure.
func module(t testing.TB, kind, require string) string {
	t.Helper()
	p, err := FindModule(kind)
	if err != nil {
		if os.Getenv(require) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

var tokens struct {
	sync.Mutex
	n int
}

// softHSM makes a token of its own and returns how to open it.
func softHSM(t testing.TB) Config {
	t.Helper()
	m := module(t, "softhsm", "REQUIRE_SOFTHSM")
	tokens.Lock()
	defer tokens.Unlock()
	tokens.n++
	c := Config{Module: m, TokenLabel: fmt.Sprintf("keyway-%d", tokens.n), PIN: pin("1234")}
	if err := InitToken(c, pin("so-5678")); err != nil {
		t.Fatal(err)
	}
	return c
}

var nssReady sync.Once

// nss returns how to open the one token that NSS has in this process.
func nss(t testing.TB) Config {
	t.Helper()
	c := Config{
		Module: module(t, "nss", "REQUIRE_NSS"), TokenLabel: "keyway", PIN: pin("1234-nss"),
		InitArgs: fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='keyway' minPWLen=0", filepath.Join(tokenDir, "nss")),
	}
	nssReady.Do(func() {
		if err := InitToken(c, pin("")); err != nil {
			t.Fatal(err)
		}
	})
	return c
}

// kinds are the tokens there are.
var kinds = []struct {
	name string
	cfg  func(testing.TB) Config
}{{"softhsm", softHSM}, {"nss", nss}}

// everyToken runs f on each kind of token there is.
func everyToken(t *testing.T, f func(t *testing.T, tok *Token)) {
	t.Helper()
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { f(t, openToken(t, k.cfg(t))) })
	}
}

func openToken(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tok
}

func keeper(t testing.TB, tok *Token) *Session {
	t.Helper()
	s, err := tok.OpenSession(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*Session)
}

func generate(t testing.TB, s *Session, spec hsm.Spec) hsm.Handle {
	t.Helper()
	h, err := s.Generate(spec)
	if err != nil {
		t.Fatalf("Generate(%+v): %v", spec, err)
	}
	return h
}

const aesMay = hsm.MayEncrypt | hsm.MayDecrypt | hsm.MayWrap | hsm.MayUnwrap

func newKEK(t testing.TB, s *Session) hsm.Handle {
	return generate(t, s, hsm.Spec{Type: hsm.KeyAES, Bits: 256, May: hsm.MayWrap | hsm.MayUnwrap})
}

func do(t testing.TB, s *Session, op *hsm.Op) []byte {
	t.Helper()
	if err := s.Do(op); err != nil {
		t.Fatalf("Do(%s): the session is lost: %v", op.Kind, err)
	}
	if op.Err != nil {
		t.Fatalf("%s with %s: %v", op.Kind, op.Mech.Type, op.Err)
	}
	return op.Out
}
