//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

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
	g, err := startGateway(ctx, s.keyway, dir, s.deadline)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	a, err := newAsker(ctx, g)
	if err != nil {
		return nil, err
	}
	r := &rehearsal{settings: s, g: g, asker: a, say: say}
	rep, err := r.run(ctx)
	if s.dir != "" && rep != nil && rep.broke(noLeak) {
		fmt.Fprintf(say, "chaos: what every goroutine does is at the end of %s\n", g.logFile)
		return rep, errors.Join(err, g.dump())
	}
	return rep, err
}

type rehearsal struct {
	settings
	g     *gateway
	asker *asker
	say   io.Writer
	rec   *record
	after Resources
}

// Times around the part in which tokens are broken.
const (
	warmUp  = 2 * time.Second
	calmEnd = 2 * time.Second
	settled = 1500 * time.Millisecond // without requests, before what is left is counted
)

func (r *rehearsal) run(ctx context.Context) (*Report, error) {
	r.send(ctx, warmUp, func(sample) {})
	time.Sleep(settled)
	before, err := r.g.resources(ctx)
	if err != nil {
		return nil, err
	}
	var faults [][]*fault
	for _, t := range r.g.members {
		faults = append(faults, faultsOf(t))
	}
	p := newPlan(r.settings, faults)
	r.rec = newRecord(time.Now(), r.deadline, r.g.members)
	r.rec.spare(p[0].spared)
	watched, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	loaded, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	var background sync.WaitGroup
	background.Go(func() { r.watch(watched) })
	background.Go(func() { (&load{r.asker, r.rate, r.seed, 2 * r.deadline, r.rec.sample}).run(loaded) })
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

// send sends requests for a time.
func (r *rehearsal) send(ctx context.Context, d time.Duration, take func(sample)) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	(&load{r.asker, r.rate, r.seed + 1, 2 * r.deadline, take}).run(ctx)
}

// play carries out the plan.
func (r *rehearsal) play(ctx context.Context, p plan) error {
	for i, part := range p {
		fmt.Fprintf(r.say, "chaos: %4.0f s: %s is spared for %s\n", time.Since(r.rec.begun).Seconds(), r.g.members[part.spared].record.Name, part.lasts.Round(time.Second))
		var lanes sync.WaitGroup
		for m, events := range part.lanes {
			lanes.Go(func() { r.lane(ctx, r.g.members[m], events) })
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
		if !sleep(ctx, e.after) {
			return
		}
		over := r.rec.fault(t.record.Name, e.fault.name)
		end, err := e.fault.begin(ctx, r.g, t)
		if err == nil {
			sleep(ctx, e.lasts)
			err = end(context.WithoutCancel(ctx))
		}
		over()
		if err != nil && ctx.Err() == nil {
			r.rec.breaks(ordersWork, fmt.Sprintf("%s, %s: %v", t.record.Name, e.fault.name, err))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// handOver waits until the member that is spared next serves, and spares it.
func (r *rehearsal) handOver(ctx context.Context, next int) error {
	name := r.g.members[next].record.Name
	began := time.Now()
	late := false
	for good := 0; good < 3; { // three times in a row
		st, err := r.g.stat(ctx)
		if err != nil {
			return fmt.Errorf("asking for the members: %w", err)
		}
		good++
		why := "it is not there"
		for _, m := range st.Members {
			if m.Name == name {
				why = fmt.Sprintf("it is %s: %s", m.State, m.Reason)
				if m.State == pool.Active {
					why = ""
				}
			}
		}
		if why != "" {
			good = 0
			if time.Since(began) > r.recovery && !late {
				late = true
				r.rec.breaks(comesBack, fmt.Sprintf("%s after %s: %s", name, r.recovery, why))
			}
			if time.Since(began) > 10*r.recovery {
				return fmt.Errorf("%s does not come back, so no member could be left able: %s", name, why)
			}
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return ctx.Err()
		}
	}
	r.rec.spare(next)
	return nil
}

// calm waits until every member serves, and a little longer.
func (r *rehearsal) calm(ctx context.Context) error {
	for _, t := range r.g.members {
		if t.module != nil {
			if err := t.module.Write(); err != nil {
				return err
			}
		}
	}
	began := time.Now()
	for {
		err := r.g.complete(ctx)
		if err == nil {
			break
		}
		if time.Since(began) > r.recovery {
			r.rec.breaks(comesBack, fmt.Sprintf("after %s without any fault %v", r.recovery, err))
			break
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
	fmt.Fprintf(r.say, "chaos: every member serves %.1f s after the last fault\n", time.Since(began).Seconds())
	sleep(ctx, calmEnd)
	return ctx.Err()
}

// watch notes the members' states, and that the spared one serves.
func (r *rehearsal) watch(ctx context.Context) {
	type seen struct {
		sparing
		epoch uint64
	}
	var was seen
	for sleep(ctx, 150*time.Millisecond) {
		s, ok := r.rec.sparedNow()
		st, err := r.g.stat(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.rec.breaks(ordersWork, fmt.Sprintf("asking for the members: %v", err))
			continue
		}
		again, _ := r.rec.sparedNow()
		there := map[string]bool{}
		for _, m := range st.Members {
			there[m.Name] = true
			r.rec.state(m.Name, string(m.State), m.Reason)
			if m.State == pool.Latched {
				r.rec.breaks(comesBack, m.Name+" latched, and no PIN was wrong: "+m.Reason)
			}
			if !ok || again != s || m.Name != r.g.members[s.member].record.Name {
				continue
			}
			if was.sparing != s {
				was = seen{s, m.Epoch}
			}
			if m.State != pool.Active || m.Epoch != was.epoch {
				r.rec.breaks(noTrip, fmt.Sprintf("%s is %s, epoch %d, was %d: %s", m.Name, m.State, m.Epoch, was.epoch, m.Reason))
				was.epoch = m.Epoch
			}
		}
		for _, t := range r.g.members {
			if !there[t.record.Name] {
				r.rec.state(t.record.Name, "removed", "")
			}
		}
	}
}
