//go:build linux && cgo

package faulthsm

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
)

// workerParams tells a worker which token to open.
type workerParams struct{ Module, Label string }

func openInWorker(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
	var p workerParams
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	return pkcs11.Open(ctx, pkcs11.Config{Module: p.Module, TokenLabel: p.Label, PIN: pin})
}

// spawn opens the rig's token in a worker process too; it is killed when the test ends.
func (r *rig) spawn(pin string) (*worker.Token, error) {
	self, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	w, err := worker.Spawn(r.ctx(), worker.Config{
		Name: "w", Argv: []string{self}, Env: []string{roleEnv + "=1", "SOFTHSM2_CONF=" + os.Getenv("SOFTHSM2_CONF")},
		Params: workerParams{r.m.Path, r.cfg.TokenLabel}, PIN: hsm.NewPIN([]byte(pin)), StartTimeout: 20 * time.Second,
	})
	if err == nil {
		r.Cleanup(func() {
			w.Kill()
			<-w.Done()
		})
	}
	return w, err
}

// worker is spawn that must work, and the worker's socket.
func (r *rig) worker() (*worker.Token, *Conn) {
	r.Helper()
	w, err := r.spawn(userPIN)
	if err != nil {
		r.Fatal(err)
	}
	c, err := r.m.Conn(r.ctx(), w.PID())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = c.Close() })
	return w, c
}

func sessionOf(t testing.TB, tok hsm.Token) hsm.Keeper {
	t.Helper()
	s, err := tok.OpenSession(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s.(hsm.Keeper)
}
