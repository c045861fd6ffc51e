//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// The device that says that it is busy: so many calls at once of so long each.
const (
	busyAbove   = 10
	busyService = 5 * time.Millisecond
	busyCallers = 64
)

// adaptiveRow is what a number of sessions got out of devices that do busyAbove calls at once.
type adaptiveRow struct {
	Token    string `json:"token"`
	Members  int    `json:"members"`
	Sessions int    `json:"sessions"` // of each member
	// Permits is how many calls at once the pool allowed itself, on the mean; the fixed limits never meet the device's.
	Permits float64       `json:"permits"`
	Rate    float64       `json:"rate"`    // of right answers
	Busy    float64       `json:"busy"`    // share of the calls that the device refused
	Refused float64       `json:"refused"` // share of the requests that were refused for it
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
}

// adaptiveFigure is how near the pool comes to the best limit of a device that refuses what is above it.
type adaptiveFigure struct {
	AtOnce  int           `json:"at_once"`
	Service time.Duration `json:"service_ns"`
	Rows    []adaptiveRow `json:"rows"`
}

func runAdaptive(ctx context.Context, s *scale) (result, error) {
	f := &adaptiveFigure{AtOnce: busyAbove, Service: busyService}
	for _, r := range []adaptiveRow{
		{Token: inMemory, Members: 1, Sessions: 5}, {Token: inMemory, Members: 1, Sessions: busyAbove}, {Token: inMemory, Members: 1, Sessions: 12},
		{Token: inMemory, Members: 1, Sessions: 64}, {Token: inMemory, Members: 3, Sessions: busyAbove}, {Token: inMemory, Members: 3, Sessions: 64},
		{Token: inWorker, Members: 1, Sessions: busyAbove}, {Token: inWorker, Members: 1, Sessions: 64},
	} {
		title := fmt.Sprintf("%s, %d × %d sessions, busy", r.Token, r.Members, r.Sessions)
		if !s.wants(title) {
			continue
		}
		open := s.busyTokens
		if r.Token == inWorker {
			open = s.busyDevice
		}
		if err := s.adapt(ctx, &r, open); err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		f.Rows = append(f.Rows, r)
		s.note("  %s: %.1f permits, %s/s, %.2f %% of calls refused, %.2f %% of requests", title, r.Permits, thousands(r.Rate), 100*r.Busy, 100*r.Refused)
	}
	return f, nil
}

// Where the tokens are.
const (
	inMemory = "in process"
	inWorker = "SoftHSM, worker"
)

// busyPool is a pool whose members say that they are busy.
type busyPool struct {
	pool *pool.Pool
	ask  func(context.Context) ([]byte, error)
	// totals returns how many calls the tokens did, and how many they refused.
	totals func() (calls, busy int64, err error)
}

// busyTokens are tokens in memory, which refuse as CloudHSM does.
func (s *scale) busyTokens(ctx context.Context, r *adaptiveRow) (*busyPool, error) {
	tokens := make([]*timed, r.Members)
	for i := range tokens {
		tokens[i] = &timed{mean: busyService, spread: fairSpread, most: busyAbove}
	}
	p, err := timedPool(ctx, tokens, pool.MemberConfig{Sessions: r.Sessions})
	if err != nil {
		return nil, err
	}
	k := timedKey(0)
	return &busyPool{
		pool: p, ask: func(ctx context.Context) ([]byte, error) { return askTimed(ctx, p, k) },
		totals: func() (calls, busy int64, _ error) {
			for _, t := range tokens {
				calls, busy = calls+t.calls.Load(), busy+t.refused.Load()
			}
			return calls, busy, nil
		},
	}, nil
}

// busyDevice is SoftHSM in a worker, behind a module that refuses every call that would have to wait, with a code that means the
// same from every vendor's token.
func (s *scale) busyDevice(ctx context.Context, r *adaptiveRow) (*busyPool, error) {
	serve := faulthsm.ServeRefusing(busyAbove, faulthsm.Uniform(busyService*3/4, busyService*5/4), hsm.TokenResourceExceeded, time.Microsecond)
	d, err := s.newDevice(ctx, faulthsm.Rule{ID: "busy", On: []string{"C_Sign"}, Do: []faulthsm.Effect{serve}})
	if err != nil {
		return nil, err
	}
	w, err := newWorkshop(filepath.Join(s.dir, d.Record.Name, "maker"), "")
	if err != nil {
		return nil, err
	}
	k, right, err := s.macKey(ctx, w)
	if err != nil {
		return nil, err
	}
	p, err := s.devicePool(ctx, w, []*rig.Token{d}, pool.MemberConfig{Sessions: r.Sessions})
	if err != nil {
		return nil, err
	}
	return &busyPool{
		pool: p, ask: func(ctx context.Context) ([]byte, error) { return askMAC(ctx, p, k, right) },
		totals: func() (calls, busy int64, err error) {
			c, err := d.Module.Conn(ctx, p.Stat().Members[0].PID)
			if err != nil {
				return 0, 0, err
			}
			defer func() { _ = c.Close() }()
			st, err := c.Stats(ctx)
			sign := st["C_Sign"]
			return sign.Calls - sign.Failed, sign.Failed, err
		},
	}, nil
}

// adapt fills in one row.
func (s *scale) adapt(ctx context.Context, r *adaptiveRow, open func(context.Context, *adaptiveRow) (*busyPool, error)) (err error) {
	b, err := open(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.pool.Close()) }()
	var refused, asked atomic.Int64
	do := func(ctx context.Context, _ int) ([]byte, error) {
		for {
			asked.Add(1)
			out, err := b.ask(ctx)
			if !errors.Is(err, pool.ErrOverloaded) {
				return out, err
			}
			refused.Add(1)
			time.Sleep(busyService) // who is refused asks again later; the answer's time counts from the beginning
		}
	}
	if err := drive(ctx, &cell{}, busyCallers*r.Members, s.duration/2, do); err != nil { // until the limit is found
		return err
	}
	refused.Store(0)
	asked.Store(0)
	calls, busy, err := b.totals()
	if err != nil {
		return err
	}
	permits := watchPermits(b.pool)
	c, err := s.measure(&meter{}, func(c *cell) error { return drive(ctx, c, busyCallers*r.Members, s.duration, do) })
	r.Permits = permits()
	if err != nil {
		return err
	}
	calls2, busy2, err := b.totals()
	if err != nil {
		return err
	}
	r.Rate, r.P50, r.P99 = c.rate(), c.times.percentile(50), c.times.percentile(99)
	r.Busy = float64(busy2-busy) / float64(max(1, calls2-calls+busy2-busy))
	r.Refused = float64(refused.Load()) / float64(max(1, asked.Load()))
	return nil
}

// watchPermits looks at the permits of a pool's members now and then; the function it returns ends that and tells their mean.
func watchPermits(p *pool.Pool) func() float64 {
	stop, done := make(chan struct{}), make(chan struct{})
	sum, n := 0, 0
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for _, m := range p.Stat().Members {
					sum, n = sum+m.Permits, n+1
				}
			}
		}
	}()
	return func() float64 {
		close(stop)
		<-done
		return float64(sum) / float64(max(1, n))
	}
}

func (f *adaptiveFigure) table(w io.Writer) {
	fmt.Fprintf(w, "The device does %d calls at once, %s each on the mean, and says that it is busy above.\n\n", f.AtOnce, micros(f.Service))
	fmt.Fprintf(w, "| token | members | sessions of each | permits, on the mean | operations/s | of the best fixed limit | calls refused by the device | requests refused | p50 | p99 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	type kind struct {
		token   string
		members int
	}
	best := map[kind]float64{}
	for _, r := range f.Rows {
		if r.Sessions <= f.AtOnce {
			best[kind{r.Token, r.Members}] = max(best[kind{r.Token, r.Members}], r.Rate)
		}
	}
	for _, r := range f.Rows {
		fmt.Fprintf(w, "| %s | %d | %d | %.1f | %s | %s | %.2f %% | %.2f %% | %s | %s |\n", r.Token, r.Members, r.Sessions, r.Permits, thousands(r.Rate), part(r.Rate, best[kind{r.Token, r.Members}]),
			100*r.Busy, 100*r.Refused, micros(r.P50), micros(r.P99))
	}
}
