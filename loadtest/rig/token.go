//go:build linux

package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/worker"
	"keyway/lifecycle"
	"keyway/loadtest/faulthsm"
)

// Token is a member's token, or the custody token.
type Token struct {
	Record lifecycle.MemberRecord
	// Module can make the token's calls fail; nil for a token that nothing stands before.
	Module *faulthsm.Module
	// EdDSA: the token has Ed25519.
	EdDSA bool
	// Serial is what the token says it is.
	Serial string
}

// NewToken makes the token called name, of a kind that pkcs11.FindModule knows, in the folder name below dir. so is the built faulthsm that
// stands before its module, "" for none. keyway is the program, whose worker initialises the token.
func NewToken(ctx context.Context, keyway, dir, so, name, kind string) (*Token, error) {
	module, err := pkcs11.FindModule(kind)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, name)
	store := filepath.Join(home, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return nil, err
	}
	t := &Token{EdDSA: kind == "softhsm", Record: lifecycle.MemberRecord{
		Name: name, Driver: "pkcs11", Module: module, TokenLabel: "rig-" + name, PINFile: filepath.Join(home, "pin"), Isolation: "worker",
	}}
	if so != "" {
		if t.Module, err = faulthsm.Install(home, so, module); err != nil {
			return nil, err
		}
		t.Record.Module = t.Module.Path
	}
	if err := t.WritePIN(UserPIN); err != nil {
		return nil, err
	}
	switch kind {
	case "softhsm":
		conf := filepath.Join(home, "softhsm2.conf")
		text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", store)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return nil, err
		}
		t.Record.Env = []string{"SOFTHSM2_CONF=" + conf}
	case "nss":
		t.Record.InitArgs = fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='' flags= dbTokenDescription='%s' minPWLen=0", store, t.Record.TokenLabel)
	}
	return t, t.initialise(ctx, keyway)
}

// The PINs of tokens that last as long as a run.
const (
	UserPIN    = "rig-user"
	officerPIN = "rig-officer"
)

// WritePIN puts a PIN into the member's file, at once.
func (t *Token) WritePIN(pin string) error {
	next := t.Record.PINFile + ".new"
	if err := os.WriteFile(next, []byte(pin), 0o600); err != nil {
		return err
	}
	return os.Rename(next, t.Record.PINFile)
}

// initialise makes the token in a worker process, since SoftHSM reads its configuration once in a process.
func (t *Token) initialise(ctx context.Context, keyway string) error {
	if err := t.Open(ctx, keyway, UserPIN+"\n"+officerPIN, true); err != nil {
		return fmt.Errorf("making the token of %s: %w", t.Record.Name, err)
	}
	return nil
}

// Open opens the token in a process of its own with a PIN, which init makes it take first, and closes it.
func (t *Token) Open(ctx context.Context, keyway, pin string, init bool) error {
	w, err := t.spawn(ctx, keyway, pin, init)
	if err != nil {
		return err
	}
	t.Serial = w.Info().Serial
	return w.Close()
}

// Spawn opens the token in a process of its own with its PIN. Close it.
func (t *Token) Spawn(ctx context.Context, keyway string) (*worker.Token, error) {
	return t.spawn(ctx, keyway, UserPIN, false)
}

func (t *Token) spawn(ctx context.Context, keyway, pin string, init bool) (*worker.Token, error) {
	r := t.Record
	return worker.Spawn(ctx, worker.Config{
		Name: r.Name, Argv: []string{keyway, "worker"}, Env: r.Env, PIN: hsm.NewPIN([]byte(pin)), StartTimeout: time.Minute,
		Params: map[string]any{"driver": r.Driver, "module": r.Module, "label": r.TokenLabel, "init_args": r.InitArgs, "init": init},
	})
}

// Settings is the record as the configuration file wants it.
func (t *Token) Settings() (map[string]any, error) {
	b, err := json.Marshal(t.Record)
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
