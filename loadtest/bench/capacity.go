//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// serviceTime and serviceSessions are those of the members with a service time.
const (
	serviceTime     = 2 * time.Millisecond
	serviceSessions = 16
)

// capacityRow is what a number of members got done.
type capacityRow struct {
	Way     string `json:"way"`
	Members int    `json:"members"`
	// Sessions of each member, and how many calls its device does at once.
	Sessions int `json:"sessions"`
	AtOnce   int `json:"at_once"`
	// Service is the nominal time of a call in the device, Measured what a call really took, where the token can tell.
	Service  time.Duration `json:"service_ns"`
	Measured time.Duration `json:"measured_service_ns,omitempty"`
	Callers  int           `json:"callers"`
	Rate     float64       `json:"rate"`
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
	// CPU is the time of all processors together for one operation, the caller's and the generator's included.
	CPU time.Duration `json:"cpu_ns"`
}

// nominal is the rate that the members' devices can do.
func (r *capacityRow) nominal() float64 {
	return float64(r.Members*r.AtOnce) / r.Service.Seconds()
}

func (r *capacityRow) take(c *cell) {
	r.Rate, r.P50, r.P99 = c.rate(), c.times.percentile(50), c.times.percentile(99)
	r.CPU = time.Duration(1e3 * c.perOp(c.own+c.server+c.workers))
}

// Ways to members with a service time.
const (
	inProcess   = "pool.Do in process"
	withWorkers = "pool.Do, workers"
	overTheNet  = "HTTP"
)

// capacityRows are what is measured. More sessions than the device does calls at once keep it busy while answers and
// questions are on their way; the token in this process needs none.
var capacityRows = []capacityRow{
	{Way: inProcess, Members: 1, Sessions: 16, AtOnce: 16, Service: serviceTime},
	{Way: inProcess, Members: 2, Sessions: 16, AtOnce: 16, Service: serviceTime},
	{Way: inProcess, Members: 4, Sessions: 16, AtOnce: 16, Service: serviceTime},
	{Way: inProcess, Members: 8, Sessions: 16, AtOnce: 16, Service: serviceTime},
	{Way: withWorkers, Members: 1, Sessions: 16, AtOnce: 16, Service: serviceTime},
	{Way: withWorkers, Members: 1, Sessions: 24, AtOnce: 16, Service: serviceTime},
	{Way: withWorkers, Members: 2, Sessions: 24, AtOnce: 16, Service: serviceTime},
	{Way: withWorkers, Members: 4, Sessions: 24, AtOnce: 16, Service: serviceTime},
	{Way: withWorkers, Members: 8, Sessions: 24, AtOnce: 16, Service: 8 * serviceTime},
	{Way: overTheNet, Members: 1, Sessions: 24, AtOnce: 16, Service: serviceTime},
	{Way: overTheNet, Members: 2, Sessions: 24, AtOnce: 16, Service: serviceTime},
	{Way: overTheNet, Members: 8, Sessions: 24, AtOnce: 16, Service: 8 * serviceTime},
}

// capacity is how far throughput follows the number of members.
type capacity struct {
	Rows []capacityRow `json:"rows"`
}

func runCapacity(ctx context.Context, s *scale) (result, error) {
	f := &capacity{}
	for _, r := range capacityRows {
		title := fmt.Sprintf("%s, %d × %d sessions", r.Way, r.Members, r.Sessions)
		if !s.wants(title) {
			continue
		}
		measure := s.deviceCapacity
		if r.Way == inProcess {
			measure = s.timedCapacity
		}
		r.Callers = 4 * r.Members * r.AtOnce
		if err := measure(ctx, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		f.Rows = append(f.Rows, r)
		s.note("  %s: %s/s of %s", title, thousands(r.Rate), thousands(r.nominal()))
	}
	return f, nil
}

// deviceCapacity measures devices in workers, of a pool here or of a gateway, as r says.
func (s *scale) deviceCapacity(ctx context.Context, r *capacityRow) (err error) {
	devices := make([]*rig.Token, r.Members)
	for i := range devices {
		if devices[i], err = s.newDevice(ctx, takes(r.AtOnce, faulthsm.Fixed(r.Service))); err != nil {
			return err
		}
		devices[i].Record.Sessions = r.Sessions
	}
	var c *cell
	if r.Way == overTheNet {
		c, err = s.capacityOverHTTP(ctx, r, devices)
	} else {
		c, err = s.capacityOfWorkers(ctx, r, devices)
	}
	if err != nil {
		return err
	}
	r.take(c)
	return nil
}

func (s *scale) capacityOfWorkers(ctx context.Context, r *capacityRow, devices []*rig.Token) (_ *cell, err error) {
	w, err := newWorkshop(filepath.Join(s.dir, devices[0].Record.Name, "maker"), "")
	if err != nil {
		return nil, err
	}
	p, err := s.devicePool(ctx, w, devices, pool.MemberConfig{Sessions: r.Sessions})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	key, right, err := s.macKey(ctx, w)
	if err != nil {
		return nil, err
	}
	do := func(ctx context.Context, _ int) ([]byte, error) { return askMAC(ctx, p, key, right) }
	if err := drive(ctx, &cell{}, r.Callers, s.duration/5, do); err != nil {
		return nil, err
	}
	return s.measure(&meter{workers: workersOf(p)}, func(c *cell) error { return drive(ctx, c, r.Callers, s.duration, do) })
}

func (s *scale) capacityOverHTTP(ctx context.Context, r *capacityRow, devices []*rig.Token) (_ *cell, err error) {
	g, err := s.serve(ctx, devices...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	m, err := g.meter()
	if err != nil {
		return nil, err
	}
	right, err := g.right(ctx)
	if err != nil {
		return nil, err
	}
	h, err := newGenerator(g.addr, r.Callers, g.request(modest))
	if err != nil {
		return nil, err
	}
	defer h.Close()
	h.want = right
	if err := h.run(ctx, &cell{}, s.duration/5); err != nil {
		return nil, err
	}
	return s.measure(&m, func(c *cell) error { return h.run(ctx, c, s.duration) })
}

// timedCapacity measures tokens in memory.
func (s *scale) timedCapacity(ctx context.Context, r *capacityRow) (err error) {
	tokens := make([]*timed, r.Members)
	for i := range tokens {
		tokens[i] = &timed{mean: r.Service}
	}
	p, err := timedPool(ctx, tokens, pool.MemberConfig{Sessions: r.Sessions})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	k := timedKey(0)
	do := func(ctx context.Context, _ int) ([]byte, error) { return askTimed(ctx, p, k) }
	if err := drive(ctx, &cell{}, r.Callers, s.duration/5, do); err != nil {
		return err
	}
	calls, spent := timedTotals(tokens)
	c, err := s.measure(&meter{}, func(c *cell) error { return drive(ctx, c, r.Callers, s.duration, do) })
	if err != nil {
		return err
	}
	r.take(c)
	calls2, spent2 := timedTotals(tokens)
	r.Measured = (spent2 - spent) / time.Duration(max(1, calls2-calls))
	return nil
}

// timedTotals adds up the calls of tokens and the time they took.
func timedTotals(tokens []*timed) (calls int64, spent time.Duration) {
	for _, t := range tokens {
		calls += t.calls.Load()
		spent += time.Duration(t.spent.Load())
	}
	return calls, spent
}

func (f *capacity) table(w io.Writer) {
	fmt.Fprintf(w, "| way | members | sessions of each | device: calls at once × time | a call really took | operations/s | of what the devices can | p50 | p99 | CPU for each |\n|---|---:|---:|---|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range f.Rows {
		measured := "–"
		if r.Measured > 0 {
			measured = micros(r.Measured)
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d × %s | %s | %s | %.1f %% of %s | %s | %s | %s |\n", r.Way, r.Members, r.Sessions, r.AtOnce, micros(r.Service), measured,
			thousands(r.Rate), 100*r.Rate/r.nominal(), thousands(r.nominal()), micros(r.P50), micros(r.P99), micros(r.CPU))
	}
}
