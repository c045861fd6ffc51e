//go:build linux && cgo

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
)

// softhsmParams tells a worker which library to load, which only the worker does.
type softhsmParams struct {
	Module string
	Init   bool
}

func init() { // the table of roles, completed
	roles["softhsm"] = func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
		var p softhsmParams
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, err
		}
		c := pkcs11.Config{Module: p.Module, TokenLabel: "behind the border", PIN: pin}
		if p.Init {
			if err := pkcs11.InitToken(c, hsm.NewPIN([]byte("so-5678"))); err != nil {
				return nil, err
			}
		}
		t, err := pkcs11.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
}

func TestSoftHSM(t *testing.T) {
	module, err := pkcs11.FindModule("softhsm")
	if err != nil {
		if os.Getenv("REQUIRE_SOFTHSM") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := "SOFTHSM2_CONF=" + conf
	w := spawn(t, config(t, "softhsm", softhsmParams{module, true}, env))
	testDriver(t, w)

	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), filepath.Base(module)) {
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
	if _, err := s.Find(hsm.ClassSecret, id); err != hsm.ErrLinkLost {
		t.Errorf("Find in a worker that was killed: %v", err)
	}
	again := spawn(t, config(t, "softhsm", softhsmParams{module, false}, env))
	if _, err := openSession(t, again).Find(hsm.ClassSecret, id); err != nil {
		t.Error(err)
	}

	// A wrong PIN is a wrong PIN on this side too.
	c := config(t, "softhsm", softhsmParams{module, false}, env)
	c.PIN = hsm.NewPIN([]byte("9999"))
	_, err = Spawn(t.Context(), c)
	var code *hsm.Error
	if hsm.FaultOf(err) != hsm.Locked || !errors.As(err, &code) || code.Code != hsm.PinIncorrect {
		t.Errorf("a wrong PIN: %v (fault %v)", err, hsm.FaultOf(err))
	}
}
