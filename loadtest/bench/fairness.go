//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

const (
	modestRate   = 100 // requests a second of the modest client
	modestConns  = 8
	greedyConns  = 100 // connections of the greedy one, each of which asks again when it is answered
	fairSpread   = 0.25
	fairRounds   = 2
	fairSessions = 16
)

// fairnessRow is what a modest client's requests take alone, and beside a greedy one.
type fairnessRow struct {
	Way   string `json:"way"`
	Token string `json:"token"`
	// ModestRate is asked for; GreedyRate is what the greedy client got.
	ModestRate float64       `json:"modest_rate"`
	GreedyRate float64       `json:"greedy_rate"`
	AloneP50   time.Duration `json:"alone_p50_ns"`
	AloneP99   time.Duration `json:"alone_p99_ns"`
	BesideP50  time.Duration `json:"beside_p50_ns"`
	BesideP99  time.Duration `json:"beside_p99_ns"`
	// Idle is which share of the machine nobody used meanwhile: with none left clients wait for the processors, and not in the pool.
	Idle float64 `json:"idle"`
}

// more is by which part the greedy client lengthens the modest one's p99.
func (r *fairnessRow) more() float64 { return float64(r.BesideP99)/float64(max(1, r.AloneP99)) - 1 }

// fairnessFigure is how much a client that asks for a hundred times its share delays another.
type fairnessFigure struct {
	Rows []fairnessRow `json:"rows"`
}

// clients are two clients of one pool or gateway.
type clients struct {
	meter  meter
	modest func(context.Context, *cell, time.Duration) error
	greedy func(context.Context, *cell, time.Duration) error
	close  func() error
}

func runFairness(ctx context.Context, s *scale) (result, error) {
	f := &fairnessFigure{}
	uniform := func(d time.Duration) faulthsm.Statement {
		return takes(fairSessions, faulthsm.Uniform(d*3/4, d*5/4))
	}
	for _, x := range []struct {
		row  fairnessRow
		open func(context.Context) (*clients, error)
	}{
		{fairnessRow{Way: "pool.Do in process", Token: "16 × 2 ms"}, s.timedClients},
		{fairnessRow{Way: "HTTP", Token: "16 × 2 ms"}, func(ctx context.Context) (*clients, error) { return s.httpClients(ctx, uniform(serviceTime)) }},
		{fairnessRow{Way: "HTTP", Token: "16 × 8 ms"}, func(ctx context.Context) (*clients, error) { return s.httpClients(ctx, uniform(4*serviceTime)) }},
		{fairnessRow{Way: "HTTP", Token: "SoftHSM"}, func(ctx context.Context) (*clients, error) { return s.httpClients(ctx) }},
	} {
		r := x.row
		title := r.Way + ", " + r.Token
		if !s.wants(title) {
			continue
		}
		if err := s.share(ctx, &r, x.open); err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		f.Rows = append(f.Rows, r)
		s.note("  %s: p99 %s alone, %s beside %s/s", title, micros(r.AloneP99), micros(r.BesideP99), thousands(r.GreedyRate))
	}
	return f, nil
}

// share measures one row: alone, beside, and again.
func (s *scale) share(ctx context.Context, r *fairnessRow, open func(context.Context) (*clients, error)) (err error) {
	cl, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cl.close()) }()
	if err := cl.greedy(ctx, &cell{}, s.duration/5); err != nil {
		return err
	}
	var alone, beside, greedy cell
	var idle []float64
	for range fairRounds {
		c, err := s.measure(&cl.meter, func(c *cell) error { return cl.modest(ctx, c, s.duration) })
		if err != nil {
			return err
		}
		alone.times.merge(&c.times)
		var other cell
		c, err = s.measure(&cl.meter, func(c *cell) error { return cl.both(ctx, c, &other, s.duration) })
		if err != nil {
			return err
		}
		beside.times.merge(&c.times)
		greedy.ops, greedy.elapsed = greedy.ops+other.ops, greedy.elapsed+other.elapsed
		idle = append(idle, c.idle())
	}
	r.ModestRate, r.GreedyRate, r.Idle = modestRate, greedy.rate(), spreadOf(idle).median
	r.AloneP50, r.AloneP99 = alone.times.percentile(50), alone.times.percentile(99)
	r.BesideP50, r.BesideP99 = beside.times.percentile(50), beside.times.percentile(99)
	return nil
}

// both lets the clients ask at the same time, the greedy one a little longer on either side.
func (cl *clients) both(ctx context.Context, modest, greedy *cell, d time.Duration) error {
	const margin = 50 * time.Millisecond
	done := make(chan error, 1)
	begun := time.Now()
	go func() {
		err := cl.greedy(ctx, greedy, d+2*margin)
		greedy.elapsed = time.Since(begun)
		done <- err
	}()
	time.Sleep(margin)
	err := cl.modest(ctx, modest, d)
	return errors.Join(err, <-done)
}

// timedClients are two clients of a pool in this process.
func (s *scale) timedClients(ctx context.Context) (*clients, error) {
	p, err := timedPool(ctx, []*timed{{mean: serviceTime, spread: fairSpread}}, pool.MemberConfig{Sessions: fairSessions})
	if err != nil {
		return nil, err
	}
	k := timedKey(0)
	as := func(client string) func(context.Context, int) ([]byte, error) {
		return func(ctx context.Context, _ int) ([]byte, error) { return askTimed(pool.ForClient(ctx, client), p, k) }
	}
	return &clients{
		modest: func(ctx context.Context, c *cell, d time.Duration) error { return arrivals(ctx, c, d, as(modest)) },
		greedy: func(ctx context.Context, c *cell, d time.Duration) error {
			return drive(ctx, c, greedyConns, d, as(greedy))
		},
		close: p.Close,
	}, nil
}

// arrivals begins operations at modestRate, whether earlier ones have ended or not, and counts each from when it was due.
func arrivals(ctx context.Context, c *cell, d time.Duration, do func(context.Context, int) ([]byte, error)) error {
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	end, due := time.Now().Add(d), time.Now()
	for {
		due = due.Add(time.Duration(rand.ExpFloat64() / modestRate * float64(time.Second)))
		if !due.Before(end) {
			break
		}
		time.Sleep(time.Until(due))
		at := due
		wg.Go(func() {
			_, err := do(ctx, 0)
			took := time.Since(at)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			c.times.add(took)
			c.ops++
		})
	}
	wg.Wait()
	return failed
}

// httpClients are two clients of a gateway whose only member follows the statements.
func (s *scale) httpClients(ctx context.Context, statements ...faulthsm.Statement) (_ *clients, err error) {
	d, err := s.newDevice(ctx, statements...)
	if err != nil {
		return nil, err
	}
	d.Record.Sessions = fairSessions
	g, err := s.serve(ctx, d)
	if err != nil {
		return nil, err
	}
	cl := &clients{}
	var closers []func()
	cl.close = func() error {
		for _, f := range closers {
			f()
		}
		return g.Stop()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cl.close())
		}
	}()
	if cl.meter, err = g.meter(); err != nil {
		return nil, err
	}
	right, err := g.right(ctx)
	if err != nil {
		return nil, err
	}
	p, err := newPacer(g.addr, modestConns, g.request(modest), right)
	if err != nil {
		return nil, err
	}
	closers = append(closers, p.Close)
	many, err := newGenerator(g.addr, greedyConns, g.request(greedy))
	if err != nil {
		return nil, err
	}
	closers = append(closers, many.Close)
	many.want = right
	cl.greedy = many.run
	cl.modest = func(ctx context.Context, c *cell, d time.Duration) error {
		return p.run(ctx, c, modestRate, max(1, int(d.Seconds()*modestRate)))
	}
	return cl, nil
}

func (f *fairnessFigure) table(w io.Writer) {
	fmt.Fprintf(w, "| way | token | modest client | greedy client gets | p50 alone | beside | p99 alone | beside | longer by | processors idle |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range f.Rows {
		fmt.Fprintf(w, "| %s | %s | %s/s | %s/s | %s | %s | %s | %s | %.0f %% | %.0f %% |\n", r.Way, r.Token, thousands(r.ModestRate), thousands(r.GreedyRate),
			micros(r.AloneP50), micros(r.BesideP50), micros(r.AloneP99), micros(r.BesideP99), 100*r.more(), 100*r.Idle)
	}
}
