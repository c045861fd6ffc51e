//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"keyway/hsm"
	"keyway/loadtest/node"
	"keyway/pool"
)

// way is how an operation reaches the token.
type way struct {
	name string
	raw  bool // one of those whose best is what the others are compared with
	run  func(context.Context, time.Duration) (*cell, error)
}

// batchSize is how many operations the batches have; the gateway runs batchWidth of one batch at once, unless configured.
const (
	batchSize  = 48
	batchWidth = 16
)

// row is one operation with all its ways and what they did, round by round.
type row struct {
	op    *operation
	ways  []way
	cells [][]*cell // by way, then by round
}

// bench holds everything that takes part in a run.
type bench struct {
	settings *settings
	log      io.Writer
	raw      hsm.Token
	pools    [2]*pool.Pool // in this process; with workers
	node     *node.Node
	rows     []row
	instants [2][]*cell // one caller; as many as connections
	aside    aside
	closers  []func() error
}

func (b *bench) note(format string, a ...any) { fmt.Fprintf(b.log, format+"\n", a...) }

// prepare makes tokens, pools, keys and the gateway.
func (b *bench) prepare(ctx context.Context, dir string) error {
	s := b.settings
	w, err := newWorkshop(dir, s.module)
	if err != nil {
		return err
	}
	b.note("making tokens and keys (%s)", s.tokens())
	if b.raw, err = w.inProcess(ctx, "raw"); err != nil {
		return err
	}
	b.closers = append(b.closers, b.raw.Close)
	for i, name := range []string{"inside", "isolated"} {
		if b.pools[i], err = w.pool(ctx, name, i == 1); err != nil {
			return err
		}
		b.closers = append(b.closers, b.pools[i].Close)
	}
	b.note("starting a gateway")
	if b.node, err = startNode(ctx, s, dir+"/node"); err != nil {
		return err
	}
	b.closers = append(b.closers, func() error { return b.node.Stop() })
	if s.asides {
		n, err := b.aside.restartNode(ctx, s, b.node)
		if err != nil {
			return err
		}
		b.node = n
	}
	maker, err := b.raw.OpenSession(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = maker.Close() }()
	for i := range s.operations {
		if err := b.addRow(ctx, maker.(hsm.Keeper), &s.operations[i]); err != nil {
			return fmt.Errorf("%s: %w", s.operations[i].title, err)
		}
	}
	return nil
}

// addRow prepares every way of one operation.
func (b *bench) addRow(ctx context.Context, maker hsm.Keeper, o *operation) error {
	s := b.settings
	m, err := o.makeMaterial(maker)
	if err != nil {
		return err
	}
	r := row{op: o}
	seen := map[int]bool{}
	for _, n := range []int{1, runtime.NumCPU(), s.sessions} {
		if seen[n] {
			continue
		}
		seen[n] = true
		d, err := newDirect(ctx, b.raw, m, o, n)
		if err != nil {
			return err
		}
		b.closers = append(b.closers, d.Close)
		r.ways = append(r.ways, way{fmt.Sprintf("raw PKCS#11, %d session%s", n, plural(n)), true, d.run})
	}
	for i, name := range []string{"pool.Do in process", "pool.Do, workers"} {
		r.ways = append(r.ways, way{name, false, newPooled(b.pools[i], m, o, s.connections).run})
	}
	for _, n := range []int{s.connections, 1} {
		h, err := newOverHTTP(b.node, o, n, 0)
		if err != nil {
			return err
		}
		r.ways = append(r.ways, way{fmt.Sprintf("HTTP, %d connection%s", n, plural(n)), false, h.run})
	}
	n := max(1, s.connections/batchWidth)
	h, err := newOverHTTP(b.node, o, n, batchSize)
	if err != nil {
		return err
	}
	r.ways = append(r.ways, way{fmt.Sprintf("HTTP, batches of %d, %d connection%s", batchSize, n, plural(n)), false, h.run})
	r.cells = make([][]*cell, len(r.ways))
	b.rows = append(b.rows, r)
	return nil
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// warm runs every cell shortly: members load the keys, and they have to be past their slow start.
func (b *bench) warm(ctx context.Context) error {
	b.note("warming up")
	for i := range b.rows {
		for _, w := range b.rows[i].ways {
			if _, err := w.run(ctx, b.settings.settle/10); err != nil {
				return fmt.Errorf("%s, %s: %w", b.rows[i].op.title, w.name, err)
			}
		}
	}
	return nil
}

// round runs every cell once, the ways of an operation next to each other, so that what disturbs one disturbs all.
func (b *bench) round(ctx context.Context, number int) error {
	s := b.settings
	for i := range b.rows {
		r := &b.rows[i]
		rates := make([]string, len(r.ways))
		for j, w := range r.ways {
			c, err := w.run(ctx, s.duration)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", r.op.title, w.name, err)
			}
			r.cells[j] = append(r.cells[j], c)
			rates[j] = fmt.Sprintf("%.0f", c.rate())
		}
		b.note("round %d of %d: %s: %s per second", number, s.rounds, r.op.title, strings.Join(rates, ", "))
	}
	for i, callers := range []int{1, s.connections} {
		c, err := runInstant(ctx, callers, s.duration/2)
		if err != nil {
			return fmt.Errorf("instant token: %w", err)
		}
		b.instants[i] = append(b.instants[i], c)
	}
	return nil
}

// rate is operations a second.
func (c *cell) rate() float64 { return float64(c.ops) / c.elapsed.Seconds() }
