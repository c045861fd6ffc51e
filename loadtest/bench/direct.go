//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
)

// direct is the raw token: sessions of this process in a loop, with nothing between. It is what the others are compared with.
type direct struct {
	token    hsm.Token
	material *material
	op       *operation
	meter    meter
	sessions []hsm.Session // each with its own operation, ready to go
	ops      []hsm.Op
}

// newDirect opens the sessions of a token that holds the KEK, and loads the key. Close it.
func newDirect(ctx context.Context, t hsm.Token, m *material, o *operation, sessions int) (*direct, error) {
	d := &direct{token: t, material: m, op: o}
	for range sessions {
		s, err := t.OpenSession(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening a session: %w", err), d.Close())
		}
		d.sessions = append(d.sessions, s)
	}
	h, err := m.load(d.sessions[0].(hsm.Keeper))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading a key: %w", err), d.Close())
	}
	for range sessions {
		op := o.op()
		op.Key, op.Out = h, make([]byte, 0, 512)
		d.ops = append(d.ops, op)
	}
	return d, nil
}

// run lets each session work for that long.
func (d *direct) run(ctx context.Context, long time.Duration) (*cell, error) {
	c, err := d.meter.measure(func(c *cell) error {
		return drive(ctx, c, len(d.sessions), long, func(_ context.Context, i int) ([]byte, error) {
			op := &d.ops[i]
			if err := d.sessions[i].Do(op); err != nil {
				return nil, err
			}
			return op.Out, op.Err
		})
	})
	if err != nil {
		return nil, err
	}
	return c, d.op.verify(ctx, d.material, func(_ context.Context, op hsm.Op) ([]byte, error) {
		op.Key = d.ops[0].Key
		if err := d.sessions[0].Do(&op); err != nil {
			return nil, err
		}
		return op.Out, op.Err
	}, c.samples)
}

// Close closes the sessions; the token stays the caller's.
func (d *direct) Close() error {
	var err error
	for _, s := range d.sessions {
		err = errors.Join(err, s.Close())
	}
	return err
}
