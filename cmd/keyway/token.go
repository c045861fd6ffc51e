package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"keyway/hsm"
	"keyway/hsm/pkcs11"
	"keyway/hsm/soft"
	"keyway/hsm/worker"
	"keyway/lifecycle"
)

// tokenParams is what a worker is told about its token. It holds nothing secret: PINs travel beside it.
type tokenParams struct {
	Driver string `json:"driver"`
	Module string `json:"module,omitempty"`
	Label  string `json:"label,omitempty"`
	Serial string `json:"serial,omitempty"`
	// Manufacturer and Model must be the token's too, where they are given.
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`

	Dir      string `json:"dir,omitempty"`
	InitArgs string `json:"init_args,omitempty"`
	Profile  string `json:"profile,omitempty"`
	// Vouched: a person has said that the PIN is right.
	Vouched bool `json:"vouched,omitempty"`
	// Init makes the token first. The PIN is then the user PIN, a line feed and the security officer's PIN.
	Init bool `json:"init,omitempty"`
}

func paramsOf(r lifecycle.MemberRecord) tokenParams {
	return tokenParams{
		Driver: r.Driver, Module: r.Module, Label: r.TokenLabel, Serial: r.TokenSerial, Manufacturer: r.TokenManufacturer, Model: r.TokenModel,
		Dir: r.TokenDir, InitArgs: r.InitArgs, Profile: r.Profile,
	}
}

// openToken opens the token p describes, in this process, making it first when p.Init is set. The PIN stays the caller's.
func openToken(ctx context.Context, p tokenParams, pin hsm.PIN) (hsm.Token, error) {
	if p.Init {
		user, so, ok := bytes.Cut(pin.Reveal(), []byte("\n"))
		if !ok {
			return nil, errors.New("a new token needs two PINs")
		}
		pin = hsm.NewPIN(user)
		defer pin.Wipe()
		soPIN := hsm.NewPIN(so)
		defer soPIN.Wipe()
		var err error
		if p.Driver == "soft" {
			err = soft.Init(p.Dir, p.Label, pin)
		} else {
			err = pkcs11.InitToken(pkcs11Config(p, pin), soPIN)
		}
		if err != nil {
			return nil, err
		}
	}
	switch p.Driver {
	case "soft":
		t, err := soft.Open(p.Dir, p.Label, pin)
		if err != nil {
			return nil, err
		}
		return t, nil
	case "pkcs11":
		t, err := pkcs11.Open(ctx, pkcs11Config(p, pin))
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	return nil, fmt.Errorf("unknown token driver %q: use pkcs11 or soft", p.Driver)
}

func pkcs11Config(p tokenParams, pin hsm.PIN) pkcs11.Config {
	return pkcs11.Config{
		Module: p.Module, TokenLabel: p.Label, TokenSerial: p.Serial, TokenManufacturer: p.Manufacturer, TokenModel: p.Model,
		InitArgs: p.InitArgs, Profile: p.Profile, PIN: pin, PINVouched: p.Vouched,
	}
}

// tokens opens members' tokens: in a worker process each, or in this process where a record says so.
type tokens struct {
	exe string // this program, which is every worker's too
	log *slog.Logger
}

func newTokens(log *slog.Logger) (*tokens, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program, which every worker runs too: %w", err)
	}
	return &tokens{exe, log}, nil
}

// opener returns how a member's token is opened. The PIN is read each time and wiped at once.
func (t *tokens) opener(r lifecycle.MemberRecord) func(context.Context) (hsm.Token, error) {
	return func(ctx context.Context) (hsm.Token, error) {
		pin, err := hsm.ReadPIN(r.PINFile)
		if err != nil {
			return nil, err
		}
		defer pin.Wipe()
		p := paramsOf(r)
		p.Vouched = hsm.IsVouched(ctx)
		if r.Isolation == "none" {
			return openToken(ctx, p, pin)
		}
		return t.spawn(ctx, r, p, pin)
	}
}

// initialise makes a new token and closes it again. It is always done in a worker, whose environment may differ from ours.
func (t *tokens) initialise(ctx context.Context, r lifecycle.MemberRecord, pin, soPIN hsm.PIN) error {
	both := bytes.Join([][]byte{pin.Reveal(), soPIN.Reveal()}, []byte("\n"))
	defer clear(both)
	pins := hsm.NewPIN(both)
	defer pins.Wipe()
	p := paramsOf(r)
	p.Init = true
	token, err := t.spawn(ctx, r, p, pins)
	if err != nil {
		return err
	}
	return token.Close()
}

func (t *tokens) spawn(ctx context.Context, r lifecycle.MemberRecord, p tokenParams, pin hsm.PIN) (hsm.Token, error) {
	w, err := worker.Spawn(ctx, worker.Config{
		Name: r.Name, Argv: []string{t.exe, "worker"}, Env: r.Env, Params: p, PIN: pin, Log: t.log,
	})
	if err != nil {
		return nil, err // not w: a nil *worker.Token in an interface would not be nil
	}
	return w, nil
}

// workerCommand is what a worker process runs. People have no use for it.
func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "worker", Hidden: true, Args: none,
		RunE: func(*cobra.Command, []string) error {
			return worker.Serve(func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error) {
				var p tokenParams
				if err := json.Unmarshal(params, &p); err != nil {
					return nil, fmt.Errorf("parameters of the token: %w", err)
				}
				return openToken(ctx, p, pin)
			})
		},
	}
}
