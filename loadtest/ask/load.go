package ask

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Sample is what came of one request.
type Sample struct {
	Question string
	// Intended is when the request was to start: a generator that is late must not hide that its requests waited.
	Intended time.Time
	Took     time.Duration // from then on
	Late     time.Duration // how much later it was sent
	Err      error
	EdDSA    bool
}

// Load sends requests at a constant rate, whether answers come or not.
type Load struct {
	Asker *Asker
	Rate  int // requests a second
	Seed  uint64
	// Rows: now and then a caller makes one mistake after the other: breakers count failures in a row, and its own must not trip them.
	Rows bool
	Wait time.Duration // for an answer: longer than is allowed, so that a late one is told from none
	Take func(Sample)  // called for each request, from any goroutine
}

const mistakesEvery, mistakesRun = 400, 80

var mistake = Question{Name: "bad ciphertext", ask: (*Asker).badCiphertext}

// Run sends until ctx ends, waits for the answers to what was sent, and returns.
func (l *Load) Run(ctx context.Context) {
	c := newChooser(Questions)
	var all sync.WaitGroup
	defer all.Wait()
	begun := time.Now()
	t := time.NewTimer(0)
	defer t.Stop()
	for n := uint64(0); ; n++ {
		intended := begun.Add(time.Duration(n) * time.Second / time.Duration(l.Rate))
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
			r := rand.New(rand.NewPCG(l.Seed, n))
			q := c.pick(r)
			if l.Rows && n%mistakesEvery >= mistakesEvery-mistakesRun {
				q = &mistake
			}
			// Those under way when the load ends are answered as well.
			ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Wait)
			defer cancel()
			late := time.Since(intended)
			err := q.ask(l.Asker, ask, r)
			if errors.Is(err, context.DeadlineExceeded) {
				err = errors.New("no answer")
			}
			l.Take(Sample{Question: q.Name, Intended: intended, Took: time.Since(intended), Late: late, Err: err, EdDSA: q.EdDSA})
		})
	}
}
