//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

// sampleEvery is how many results lie between two that are kept to be verified; the first one of each caller is.
const (
	sampleEvery = 1000
	sampleMost  = 4 // of each caller
)

// cell is what one way did with one operation in one round.
type cell struct {
	ops     int
	elapsed time.Duration
	times   histogram
	// CPU time: of this process, of the gateway's, and of all workers.
	own, server, workers time.Duration
	allocs               uint64 // of this process
	// What other programs used of the processors meanwhile, and what the hypervisor kept back.
	others, stolen time.Duration
	samples        [][]byte
}

// meter reads the CPU clocks of everybody who takes part.
type meter struct{ server, workers []int }

type reading struct {
	own, server, workers time.Duration
	machine              machineTime
}

func (m *meter) read() (r reading, err error) {
	if r.own, err = cpuTime(os.Getpid()); err != nil {
		return r, err
	}
	if r.server, err = cpuOf(m.server); err != nil {
		return r, err
	}
	if r.workers, err = cpuOf(m.workers); err != nil {
		return r, err
	}
	r.machine, err = readMachineTime()
	return r, err
}

// measure runs work, which fills the cell, and adds what it cost.
func (m *meter) measure(work func(*cell) error) (*cell, error) {
	c := &cell{}
	var before, after runtime.MemStats
	runtime.GC() // each cell pays for its own garbage only
	runtime.ReadMemStats(&before)
	from, err := m.read()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := work(c); err != nil {
		return nil, err
	}
	c.elapsed = time.Since(begun)
	to, err := m.read()
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&after)
	c.own, c.server, c.workers = to.own-from.own, to.server-from.server, to.workers-from.workers
	c.others = max(0, to.machine.busy-from.machine.busy-c.own-c.server-c.workers)
	c.stolen = to.machine.stolen - from.machine.stolen
	c.allocs = after.Mallocs - before.Mallocs
	return c, nil
}

// drive lets n callers run do one after the other until d is over, and fills c. What do returns is valid until the
// caller's next call. The first error ends everything.
func drive(ctx context.Context, c *cell, n int, d time.Duration, do func(ctx context.Context, caller int) ([]byte, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	callers := make([]cell, n)
	deadline := time.Now().Add(d)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			own := &callers[i]
			// As of every request: its own, so that callers do not meet at one channel's lock.
			ctx, done := context.WithCancel(ctx)
			defer done()
			now := time.Now()
			for now.Before(deadline) && ctx.Err() == nil {
				out, err := do(ctx, i)
				if err != nil {
					cancel(fmt.Errorf("after %d operations: %w", own.ops, err))
					return
				}
				began := now
				now = time.Now()
				own.times.add(now.Sub(began))
				if own.ops%sampleEvery == 0 && len(own.samples) < sampleMost {
					own.samples = append(own.samples, bytes.Clone(out))
				}
				own.ops++
			}
		})
	}
	wg.Wait()
	for i := range callers {
		c.ops += callers[i].ops
		c.times.merge(&callers[i].times)
		c.samples = append(c.samples, callers[i].samples...)
	}
	return context.Cause(ctx)
}

// idle is the share of the processors' time that nobody used and nobody withheld.
func (c *cell) idle() float64 {
	whole := float64(c.elapsed) * float64(runtime.NumCPU())
	return max(0, 1-float64(c.own+c.server+c.workers+c.others+c.stolen)/whole)
}
