//go:build linux

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/soft"
	"keyway/hsm/worker"
	"keyway/pool"
)

// workerEnv in the environment makes this program a worker of its own.
const workerEnv = "KEYWAY_BENCH_WORKER"

// members is how many tokens each pool has, here and behind the gateway.
const members = 3

// tokenParams tells a worker, or this process, which token to make and open.
type tokenParams struct {
	Module string // of PKCS#11; "" for the embedded token
	Dir    string // of the embedded token
	Label  string
}

// open makes the token and opens it.
func open(ctx context.Context, p tokenParams, pin hsm.PIN) (hsm.Token, error) {
	if p.Module == "" {
		if err := soft.Init(p.Dir, p.Label, pin); err != nil {
			return nil, err
		}
		t, err := soft.Open(p.Dir, p.Label, pin)
		if err != nil {
			return nil, err // not t: a nil *soft.Token in an interface would not be nil
		}
		return t, nil
	}
	c := pkcs11.Config{Module: p.Module, TokenLabel: p.Label, PIN: pin}
	if err := pkcs11.InitToken(c, hsm.NewPIN([]byte("so-5678"))); err != nil {
		return nil, err
	}
	t, err := pkcs11.Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// serveWorker is the life of this program as a worker.
func serveWorker() error {
	return worker.Serve(func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
		var p tokenParams
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, err
		}
		return open(ctx, p, pin)
	})
}

// workshop makes the tokens of one run, in directories below dir.
type workshop struct {
	dir, module string
	kek         []byte
	pin         hsm.PIN
}

// newWorkshop prepares this process for tokens of its own: SoftHSM reads its configuration once in a process.
func newWorkshop(dir, module string) (*workshop, error) {
	w := &workshop{dir: dir, module: module, kek: make([]byte, 32), pin: hsm.NewPIN([]byte("1234"))}
	_, _ = rand.Read(w.kek)
	env, err := w.home("own")
	if err != nil {
		return nil, err
	}
	return w, os.Setenv("SOFTHSM2_CONF", env)
}

// home makes a directory for tokens and returns the path of its SoftHSM configuration.
func (w *workshop) home(name string) (string, error) {
	store := filepath.Join(w.dir, name, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(w.dir, name, "softhsm2.conf")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", store)
	return conf, os.WriteFile(conf, []byte(text), 0o600)
}

func (w *workshop) params(home, label string) tokenParams {
	return tokenParams{Module: w.module, Dir: filepath.Join(w.dir, home, "store"), Label: label}
}

// provision puts the KEK on a token, which is all a token needs to use every key of this run.
func (w *workshop) provision(_ context.Context, k hsm.Keeper) error {
	_, err := k.Import(hsm.Spec{Type: hsm.KeyAES, Bits: 256, ID: kekID, Label: "kek", Token: true, May: hsm.MayWrap | hsm.MayUnwrap}, w.kek)
	return err
}

// inProcess returns a token in this process with the KEK on it. Close it.
func (w *workshop) inProcess(ctx context.Context, label string) (hsm.Token, error) {
	t, err := open(ctx, w.params("own", label), w.pin)
	if err != nil {
		return nil, err
	}
	s, err := t.OpenSession(ctx)
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	defer func() { _ = s.Close() }()
	if err := w.provision(ctx, s.(hsm.Keeper)); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("putting the KEK on token %s: %w", label, err)
	}
	return t, nil
}

// pool returns a pool of members tokens that are configured as keyway dev configures them: in this process, or each in a worker. Close it.
func (w *workshop) pool(ctx context.Context, name string, isolated bool) (*pool.Pool, error) {
	p, err := pool.New(pool.Config{Name: name})
	if err != nil {
		return nil, err
	}
	for i := range members {
		label := fmt.Sprintf("%s-%d", name, i+1)
		opener := func(ctx context.Context) (hsm.Token, error) { return open(ctx, w.params("own", label), w.pin) }
		if isolated {
			opener = func(ctx context.Context) (hsm.Token, error) { return w.spawn(ctx, label) }
		}
		err = p.Add(pool.MemberConfig{Name: label, KEK: kekID, Provision: w.provision, Open: opener})
		if err != nil {
			break
		}
	}
	if err == nil {
		err = waitFor(ctx, p, members)
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// spawn starts a worker with a token of its own.
func (w *workshop) spawn(ctx context.Context, label string) (hsm.Token, error) {
	conf, err := w.home(label)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t, err := worker.Spawn(ctx, worker.Config{
		Name: label, Argv: []string{exe}, Env: []string{"SOFTHSM2_CONF=" + conf, workerEnv + "=1"},
		Params: w.params(label, label), PIN: w.pin,
	})
	if err != nil {
		return nil, err // not t: a nil *worker.Token in an interface would not be nil
	}
	return t, nil
}

// waitFor waits until n members of p serve.
func waitFor(ctx context.Context, p *pool.Pool, n int) error {
	for {
		active, why := 0, ""
		for _, m := range p.Stat().Members {
			if m.State == pool.Active {
				active++
			} else if m.Reason != "" {
				why = m.Reason
			}
		}
		if active == n {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d of %d members of pool %s serve (%s): %w", active, n, p.Stat().Pool, why, ctx.Err())
		}
	}
}
