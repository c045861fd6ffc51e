//go:build linux && cgo

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
)

// libraryParams tells a worker which library to load, which only workers do.
type libraryParams struct {
	Module, InitArgs string
	Init             bool
}

func (p libraryParams) config(pin hsm.PIN) pkcs11.Config {
	return pkcs11.Config{Module: p.Module, TokenLabel: "behind the border", InitArgs: p.InitArgs, PIN: pin}
}

func init() { // the table of roles, completed
	roles["library"] = func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
		var p libraryParams
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, err
		}
		if p.Init {
			if err := pkcs11.InitToken(p.config(pin), hsm.NewPIN([]byte("so-5678"))); err != nil {
				return nil, err
			}
		}
		t, err := pkcs11.Open(ctx, p.config(pin))
		if err != nil {
			return nil, err
		}
		return t, nil
	}
}

// library makes a token of a kind of library and returns how to start a worker on it.
func library(t *testing.T, kind string) Config {
	t.Helper()
	module, err := pkcs11.FindModule(kind)
	if err != nil {
		if os.Getenv("REQUIRE_"+strings.ToUpper(kind)) == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	p := libraryParams{Module: module, Init: true}
	var env []string
	if kind == "softhsm" {
		conf := filepath.Join(dir, "softhsm2.conf")
		if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		env = append(env, "SOFTHSM2_CONF="+conf)
	} else {
		p.InitArgs = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='behind the border' minPWLen=0", dir)
	}
	w, err := Spawn(t.Context(), config(t, "library", p, env...))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p.Init = false
	return config(t, "library", p, env...)
}

func TestConformanceSoftHSM(t *testing.T) { conforms(t, library(t, "softhsm")) }

func TestConformanceNSS(t *testing.T) { conforms(t, library(t, "nss")) }

// TestLibraryStaysInTheWorker: nothing of a library is in the supervisor, so that its worker's end ends all of it.
func TestLibraryStaysInTheWorker(t *testing.T) {
	c := library(t, "softhsm")
	w := spawn(t, c)
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), "libsofthsm2.so") {
		t.Error("the supervisor loaded the library")
	}

	// A worker that is killed is followed by another one, which finds the token as it was.
	s := openSession(t, w).(hsm.Keeper)
	id := []byte("0123456789abcdef")
	if _, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: id, Token: true, May: hsm.MayEncrypt}); err != nil {
		t.Fatal(err)
	}
	w.Kill()
	<-w.Done()
	if _, err := openSession(t, spawn(t, c)).Find(hsm.ClassSecret, id); err != nil {
		t.Error(err)
	}

	// A wrong PIN is a wrong PIN on this side too.
	c.PIN = hsm.NewPIN([]byte("9999"))
	_, err = Spawn(t.Context(), c)
	var code *hsm.Error
	if hsm.FaultOf(err) != hsm.Locked || !errors.As(err, &code) || code.Code != hsm.PinIncorrect {
		t.Errorf("a wrong PIN: %v (fault %v)", err, hsm.FaultOf(err))
	}
}
