//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
	"keyway/lifecycle"
	"keyway/loadtest/faulthsm"
)

// token is a member's token, or the custody token.
type token struct {
	record lifecycle.MemberRecord
	// module can make the token's calls fail; nil for a token that nothing stands before.
	module *faulthsm.Module
	// eddsa: the token has Ed25519.
	eddsa bool
	// serial is what the token says it is.
	serial string
	// latching: its PIN is wrong now, or said to be, so that it may latch.
	latching atomic.Bool
}

// kinds of the pool's members, in their order.
var kinds = []struct {
	name, module string
	faulty       bool
}{{"softhsm", "softhsm", false}, {"nss", "nss", false}, {"fault-softhsm", "softhsm", true}, {"fault-nss", "nss", true}}

// makeTokens makes the custody token, one for each member and the visitor's, below dir.
func makeTokens(ctx context.Context, keyway, dir string) (custody *token, members []*token, visitor *token, err error) {
	b, err := faulthsm.Build(ctx, dir)
	if err != nil {
		return nil, nil, nil, err
	}
	if custody, err = makeToken(ctx, keyway, dir, b.Module, "custody", "softhsm", false); err != nil {
		return nil, nil, nil, err
	}
	if visitor, err = makeToken(ctx, keyway, dir, b.Module, "visitor", "softhsm", false); err != nil {
		return nil, nil, nil, err
	}
	for _, k := range kinds {
		t, err := makeToken(ctx, keyway, dir, b.Module, k.name, k.module, k.faulty)
		if err != nil {
			return nil, nil, nil, err
		}
		members = append(members, t)
	}
	return custody, members, visitor, nil
}

func makeToken(ctx context.Context, keyway, dir, so, name, kind string, faulty bool) (*token, error) {
	module, err := pkcs11.FindModule(kind)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, name)
	store := filepath.Join(home, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	t := &token{eddsa: kind == "softhsm", record: lifecycle.MemberRecord{
		Name: name, Driver: "pkcs11", Module: module, TokenLabel: "chaos-" + name, PINFile: filepath.Join(home, "pin"), Isolation: "worker",
	}}
	if faulty {
		if t.module, err = faulthsm.Install(home, so, module); err != nil {
			return nil, err
		}
		t.record.Module, t.record.MaxMemory = t.module.Path, maxMemory
	}
	if err := t.writePIN(userPIN); err != nil {
		return nil, err
	}
	switch kind {
	case "softhsm":
		conf := filepath.Join(home, "softhsm2.conf")
		text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", store)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		t.record.Env = []string{"SOFTHSM2_CONF=" + conf}
	case "nss":
		t.record.InitArgs = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='%s' minPWLen=0", store, t.record.TokenLabel)
	}
	return t, t.initialise(ctx, keyway)
}

// The PINs of tokens that last as long as the run.
const userPIN, wrongPIN, officerPIN = "chaos-user", "chaos-wrong", "chaos-officer"

// writePIN puts a PIN into the member's file, at once.
func (t *token) writePIN(pin string) error {
	next := t.record.PINFile + ".new"
	if err := os.WriteFile(next, []byte(pin), 0o600); err != nil {
		return err
	}
	return os.Rename(next, t.record.PINFile)
}

// initialise makes the token in a worker process, since SoftHSM reads its configuration once in a process.
func (t *token) initialise(ctx context.Context, keyway string) error {
	if err := t.open(ctx, keyway, userPIN+"\n"+officerPIN, true); err != nil {
		return fmt.Errorf("making the token of %s: %w", t.record.Name, err)
	}
	return nil
}

// open opens the token in a process of its own with a PIN, which init makes it take first, and closes it.
func (t *token) open(ctx context.Context, keyway, pin string, init bool) error {
	r := t.record
	w, err := worker.Spawn(ctx, worker.Config{
		Name: r.Name, Argv: []string{keyway, "worker"}, Env: r.Env, PIN: hsm.NewPIN([]byte(pin)), StartTimeout: time.Minute,
		Params: map[string]any{"driver": r.Driver, "module": r.Module, "label": r.TokenLabel, "init_args": r.InitArgs, "init": init},
	})
	if err != nil {
		return err
	}
	t.serial = w.Info().Serial
	return w.Close()
}

// settings is the record as the configuration file wants it.
func (t *token) settings() (map[string]any, error) {
	b, err := json.Marshal(t.record)
	if err != nil {
		return nil, err
	}
	m := map[string]any{}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	delete(m, "pool")
	return m, nil
}
