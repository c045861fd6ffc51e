//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"keyway/loadtest/ask"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// rehearse is one run. The report is there as soon as requests were sent, even when the error says that something ended it early.
func rehearse(ctx context.Context, s settings, say io.Writer) (_ *Report, err error) {
	dir := s.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "keyway-chaos-"); err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fmt.Fprintf(say, "chaos: seed %d; making tokens and keys\n", s.seed)
	c, err := startCluster(ctx, s, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	var urls []string
	for _, g := range c.gateways {
		urls = append(urls, g.URL())
	}
	a, err := ask.New(ctx, c.http, c.token, urls...)
	if err != nil {
		return nil, err
	}
	r := &rehearsal{settings: s, c: c, all: append(slices.Clone(c.members), c.visitor), asker: a, say: say}
	rep, err := r.run(ctx)
	if s.dir != "" && rep != nil && rep.broke(noLeak) {
		fmt.Fprintf(say, "chaos: what every goroutine does is at the end of the logs in %s\n", dir)
		for _, g := range c.gateways {
			err = errors.Join(err, g.Dump())
		}
		return rep, err
	}
	return rep, err
}

type rehearsal struct {
	settings
	c     *cluster
	all   []*token // the members and the visitor
	asker *ask.Asker
	say   io.Writer
	rec   *record
	after []Resources // of each gateway
}

// Times around the part in which tokens are broken.
const (
	warmUp  = 2 * time.Second
	calmEnd = 2 * time.Second
	settled = 1500 * time.Millisecond // without requests, before what is left is counted
)

func (r *rehearsal) run(ctx context.Context) (*Report, error) {
	r.send(ctx, warmUp, func(ask.Sample) {})
	time.Sleep(settled)
	before, err := r.c.resources(ctx)
	if err != nil {
		return nil, err
	}
	var faults [][]*fault
	for _, t := range r.c.members {
		faults = append(faults, faultsOf(t, r.settings))
	}
	faults = append(faults, visits())
	p := newPlan(r.settings, faults, len(r.c.members))
	r.rec = newRecord(time.Now(), r.deadline, r.all)
	r.rec.spare(p[0].spared)
	watched, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	loaded, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	var background sync.WaitGroup
	for n := range r.c.gateways {
		background.Go(func() { r.watch(watched, n) })
	}
	background.Go(func() { r.load(r.seed, r.rec.sample).Run(loaded) })
	err = r.play(ctx, p)
	if err == nil {
		err = r.calm(ctx)
	}
	stopLoad()
	stopWatching()
	background.Wait()
	if err == nil {
		err = r.compare(ctx, before)
	}
	return r.report(before), err
}

// load are requests at the run's rate, callers' mistakes also in rows.
func (r *rehearsal) load(seed uint64, take func(ask.Sample)) *ask.Load {
	return &ask.Load{Asker: r.asker, Rate: r.rate, Seed: seed, Wait: 2 * r.deadline, Take: take, Rows: true}
}

// send sends requests for a time.
func (r *rehearsal) send(ctx context.Context, d time.Duration, take func(ask.Sample)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	r.load(r.seed+1, take).Run(ctx)
}

// play carries out the plan.
func (r *rehearsal) play(ctx context.Context, p plan) error {
	for i, part := range p {
		fmt.Fprintf(r.say, "chaos: %4.0f s: %s is spared for %s\n", time.Since(r.rec.begun).Seconds(), r.all[part.spared].Record.Name, part.lasts.Round(time.Second))
		var lanes sync.WaitGroup
		for m, events := range part.lanes {
			lanes.Go(func() { r.lane(ctx, r.all[m], events) })
		}
		ends := time.NewTimer(part.lasts)
		lanes.Wait()
		select {
		case <-ends.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if i+1 < len(p) {
			if err := r.handOver(ctx, part.next); err != nil {
				return err
			}
		}
	}
	return nil
}

// lane plays one member's faults of a part.
func (r *rehearsal) lane(ctx context.Context, t *token, events []event) {
	for _, e := range events {
		if !rig.Sleep(ctx, e.after) {
			return
		}
		over := r.rec.fault(t.Record.Name, e.fault.name)
		end, err := e.fault.begin(ctx, r.c, t)
		r.failed(ctx, t, e.fault, err)
		if err == nil {
			rig.Sleep(ctx, e.lasts)
		}
		if end != nil {
			r.failed(ctx, t, e.fault, end(context.WithoutCancel(ctx)))
		}
		over()
	}
}

// failed notes what went wrong where a fault was begun or ended.
func (r *rehearsal) failed(ctx context.Context, t *token, f *fault, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	promise := ordersWork
	if b := (*breach)(nil); errors.As(err, &b) {
		promise = b.promise
	}
	r.rec.breaks(promise, fmt.Sprintf("%s, %s: %v", t.Record.Name, f.name, err))
}

// handOver waits until the member that is spared next serves on every gateway, and spares it.
func (r *rehearsal) handOver(ctx context.Context, next int) error {
	t := r.all[next]
	began := time.Now()
	late := false
	for good := 0; good < 3; { // three times in a row
		good++
		for _, g := range r.c.gateways {
			m, err := g.Member(ctx, t.Token)
			if err != nil {
				return fmt.Errorf("asking for the members: %w", err)
			}
			if m != nil && m.State == pool.Active {
				continue
			}
			good = 0
			why := fmt.Sprintf("on %s it is not there", g.name)
			if m != nil {
				why = fmt.Sprintf("on %s it is %s: %s", g.name, m.State, m.Reason)
			}
			if time.Since(began) > r.recovery && !late {
				late = true
				r.rec.breaks(comesBack, fmt.Sprintf("%s after %s: %s", t.Record.Name, r.recovery, why))
			}
			if time.Since(began) > 10*r.recovery {
				return fmt.Errorf("%s does not come back, so no member could be left able: %s", t.Record.Name, why)
			}
		}
		if !rig.Sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	r.rec.spare(next)
	return nil
}

// calm waits until every member serves everywhere, and a little longer.
func (r *rehearsal) calm(ctx context.Context) error {
	for _, t := range r.c.members {
		if t.Module != nil {
			if err := t.Module.Write(); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	for {
		var err error
		for _, g := range r.c.gateways {
			err = errors.Join(err, r.c.complete(ctx, g))
		}
		if err == nil {
			break
		}
		if time.Since(began) > r.recovery {
			r.rec.breaks(comesBack, fmt.Sprintf("after %s without any fault %v", r.recovery, err))
			break
		}
		if !rig.Sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	fmt.Fprintf(r.say, "chaos: every member serves %.1f s after the last fault\n", time.Since(began).Seconds())
	rig.Sleep(ctx, calmEnd)
	return ctx.Err()
}
