//go:build linux

package main

import (
	"context"
	"time"

	"keyway/hsm"
	"keyway/pool"
)

// pooled is pool.Do, called by callers goroutines of this process.
type pooled struct {
	pool     *pool.Pool
	material *material
	op       *operation
	meter    meter
	callers  int
	key      *pool.Key
}

// newPooled prepares a pool that serves; it stays the caller's.
func newPooled(p *pool.Pool, m *material, o *operation, callers int) *pooled {
	d := &pooled{
		pool: p, material: m, op: o, callers: callers,
		key: &pool.Key{ID: m.id, Spec: m.spec, Blob: m.blob, Wrap: kekWrap, Public: m.public},
	}
	for _, s := range p.Stat().Members {
		if s.PID != 0 {
			d.meter.workers = append(d.meter.workers, s.PID)
		}
	}
	return d
}

func (d *pooled) run(ctx context.Context, long time.Duration) (*cell, error) {
	op := d.op.op()
	c, err := d.meter.measure(func(c *cell) error {
		return drive(ctx, c, d.callers, long, func(ctx context.Context, _ int) ([]byte, error) {
			return d.pool.Do(ctx, d.key, op)
		})
	})
	if err != nil {
		return nil, err
	}
	return c, d.op.verify(ctx, d.material, func(ctx context.Context, op hsm.Op) ([]byte, error) {
		return d.pool.Do(ctx, d.key, op)
	}, c.samples)
}

// instant is a token that answers at once, so that what is measured is the pool.
type instant struct{}

type instantSession struct{}

func (instant) OpenSession(context.Context) (hsm.Session, error) { return instantSession{}, nil }
func (instant) Info() hsm.Info                                   { return hsm.Info{} }
func (instant) Close() error                                     { return nil }

func (instantSession) Do(op *hsm.Op) error {
	op.Out, op.Err = append(op.Out[:0], message...), nil
	return nil
}
func (instantSession) Find(hsm.Class, []byte) (hsm.Handle, error) { return 1, nil }
func (instantSession) Close() error                               { return nil }

// runInstant measures the pool by itself: callers goroutines on instant tokens for that long.
func runInstant(ctx context.Context, callers int, long time.Duration) (*cell, error) {
	p, err := pool.New(pool.Config{Name: "instant"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	for _, n := range []string{"a", "b", "c"} {
		if err := p.Add(pool.MemberConfig{Name: n, Open: func(context.Context) (hsm.Token, error) { return instant{}, nil }}); err != nil {
			return nil, err
		}
	}
	if err := waitFor(ctx, p, members); err != nil {
		return nil, err
	}
	k := &pool.Key{ID: [16]byte{1}}
	var m meter
	return m.measure(func(c *cell) error {
		return drive(ctx, c, callers, long, func(ctx context.Context, _ int) ([]byte, error) {
			return p.Do(ctx, k, hsm.Op{Kind: hsm.OpSign, In: message})
		})
	})
}
