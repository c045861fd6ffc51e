//go:build linux

package main

import (
	"context"
	"sync/atomic"

	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
)

// token is a member's token, or the custody token.
type token struct {
	*rig.Token
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
	if !faulty {
		so = ""
	}
	t, err := rig.NewToken(ctx, keyway, dir, so, name, kind)
	if err != nil {
		return nil, err
	}
	if faulty {
		t.Record.MaxMemory = maxMemory
	}
	return &token{Token: t}, nil
}

// wrongPIN is none that a token takes.
const wrongPIN = "chaos-wrong"
