//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

const (
	crowdFew  = 64   // connections of the comparison
	crowdRate = 1000 // requests a second, over all connections
)

// crowd is what many open connections cost.
type crowd struct {
	Connections int     `json:"connections"`
	Served      int     `json:"served"` // connections that have had an answer, and a right one
	Rate        float64 `json:"rate"`
	// Memory of the gateway with Few connections and with all of them, in bytes; PSS where it may be read, else RSS.
	Before int64 `json:"memory_before"`
	After  int64 `json:"memory_after"`
	// FewP50 to ManyP99 are from when a request was due to its answer.
	Few     int           `json:"few"`
	FewP50  time.Duration `json:"few_p50_ns"`
	FewP99  time.Duration `json:"few_p99_ns"`
	ManyP50 time.Duration `json:"many_p50_ns"`
	ManyP99 time.Duration `json:"many_p99_ns"`
	// FewCPU and ManyCPU are the gateway's for one request.
	FewCPU  time.Duration `json:"few_cpu_ns"`
	ManyCPU time.Duration `json:"many_cpu_ns"`
}

func runCrowd(ctx context.Context, s *scale) (result, error) { return s.crowd(ctx) }

func (s *scale) crowd(ctx context.Context) (_ *crowd, err error) {
	if err := raiseFiles(uint64(s.conns) + 1000); err != nil {
		return nil, err
	}
	d, err := s.newDevice(ctx)
	if err != nil {
		return nil, err
	}
	g, err := s.serve(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	right, err := g.right(ctx)
	if err != nil {
		return nil, err
	}
	m, err := g.meter()
	if err != nil {
		return nil, err
	}
	f := &crowd{Connections: s.conns, Few: crowdFew, Rate: crowdRate}
	n := max(1, int(s.duration.Seconds()*crowdRate))
	var few, many cell
	for i := range 3 { // few, many, few: what disturbs the machine disturbs both
		conns, sum := f.Few, &few
		if i == 1 {
			conns, sum = f.Connections, &many
			if f.Before, err = heldBy(g); err != nil {
				return nil, err
			}
		}
		p, err := newPacer(g.addr, conns, g.request(modest), right)
		if err != nil {
			return nil, err
		}
		c, err := s.crowdCell(ctx, &m, p, n)
		if err == nil && i == 1 {
			f.Served = p.served()
			f.After, err = heldBy(g)
		}
		p.Close()
		if err != nil {
			return nil, fmt.Errorf("%d connections: %w", conns, err)
		}
		sum.times.merge(&c.times)
		sum.ops, sum.server = sum.ops+c.ops, sum.server+c.server
	}
	f.FewP50, f.FewP99, f.ManyP50, f.ManyP99 = few.times.percentile(50), few.times.percentile(99), many.times.percentile(50), many.times.percentile(99)
	f.FewCPU, f.ManyCPU = time.Duration(1e3*few.perOp(few.server)), time.Duration(1e3*many.perOp(many.server))
	if f.Served != f.Connections {
		return nil, fmt.Errorf("of %d connections %d had an answer", f.Connections, f.Served)
	}
	s.note("  %d connections: p99 %s, %d alone: %s; %d bytes each", f.Connections, micros(f.ManyP99), f.Few, micros(f.FewP99), f.each())
	return f, nil
}

// crowdCell lets every connection have an answer, and then measures n requests.
func (s *scale) crowdCell(ctx context.Context, m *meter, p *pacer, n int) (*cell, error) {
	if err := p.run(ctx, &cell{}, 4*crowdRate, max(len(p.conns), n/5)); err != nil {
		return nil, err
	}
	return s.measure(m, func(c *cell) error { return p.run(ctx, c, crowdRate, n) })
}

// each is the gateway's memory for one connection.
func (f *crowd) each() int64 { return (f.After - f.Before) / int64(f.Connections) }

// heldBy is the memory of the gateway without its workers.
func heldBy(g *served) (int64, error) {
	m, err := memoryOf(g.PID())
	if m.pss > 0 {
		return m.pss, err
	}
	return m.rss, err
}

// raiseFiles lets this process have n files open.
func raiseFiles(n uint64) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= n {
		return nil
	}
	if l.Max < n {
		return fmt.Errorf("a process may have %d files open here and %d are needed: raise the hard limit (ulimit -Hn), or use fewer -connections", l.Max, n)
	}
	l.Cur = n
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

func (f *crowd) table(w io.Writer) {
	fmt.Fprintf(w, "| open connections | requests/s, over all | p50 | p99 | gateway's CPU for each | gateway's memory |\n|---:|---:|---:|---:|---:|---:|\n")
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.0f MB |\n", thousands(float64(f.Few)), thousands(f.Rate), micros(f.FewP50), micros(f.FewP99), micros(f.FewCPU), float64(f.Before)/1e6)
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %.0f MB |\n", thousands(float64(f.Connections)), thousands(f.Rate), micros(f.ManyP50), micros(f.ManyP99), micros(f.ManyCPU), float64(f.After)/1e6)
	fmt.Fprintf(w, "\nA connection costs the gateway %.1f kB. Each of the %s has had right answers.\n", float64(f.each())/1e3, thousands(float64(f.Served)))
}
