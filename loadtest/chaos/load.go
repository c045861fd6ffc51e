//go:build linux

package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// sample is what came of one request.
type sample struct {
	question string
	// intended is when the request was to start: a generator that is late must not hide that its requests waited.
	intended time.Time
	took     time.Duration // from then on
	late     time.Duration // how much later it was sent
	err      error
	eddsa    bool
}

// load sends requests at a constant rate, whether answers come or not.
type load struct {
	asker *asker
	rate  int
	seed  uint64
	wait  time.Duration // for an answer: longer than is allowed, so that a late one is told from none
	take  func(sample)  // called for each request, from any goroutine
}

// Now and then a caller makes one mistake after the other: breakers count failures in a row, and its own must not trip them.
const mistakesEvery, mistakesRun = 400, 80

var mistake = question{name: "bad ciphertext", ask: (*asker).badCiphertext}

// run sends until ctx ends, waits for the answers to what was sent, and returns.
func (l *load) run(ctx context.Context) {
	c := newChooser(questions)
	var all sync.WaitGroup
	defer all.Wait()
	begun := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for n := uint64(0); ; n++ {
		intended := begun.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
		if d := time.Until(intended); d > 0 {
			t.Reset(d)
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() != nil {
			return
		}
		all.Go(func() {
			r := rand.New(rand.NewPCG(l.seed, n))
			q := c.pick(r)
			if n%mistakesEvery >= mistakesEvery-mistakesRun {
				q = &mistake
			}
			// Those under way when the load ends are answered as well.
			ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.wait)
			defer cancel()
			late := time.Since(intended)
			err := q.ask(l.asker, ask, r)
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("no answer")
			}
			l.take(sample{question: q.name, intended: intended, took: time.Since(intended), late: late, err: err, eddsa: q.eddsa})
		})
	}
}
