package pool

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"keyway/hsm"
)

// errAbandoned is reported to the breaker for an attempt that asked nothing of the token.
var errAbandoned = errors.New("abandoned")

// Bounds of the time a breaker stays open, before jitter.
const (
	openMin = time.Second
	openMax = 5 * time.Minute
)

// breaker is a member's circuit breaker. gobreaker counts and decides to trip; how long it
// stays open, which gobreaker keeps constant, grows here, by when the next canary is due. Half open, it
// admits canaries only.
type breaker struct {
	b *gobreaker.TwoStepCircuitBreaker[struct{}]
	// closed mirrors the state, so that choosing a member takes no lock.
	closed atomic.Bool

	mu     sync.Mutex
	open   time.Duration // how long the breaker stayed open last time
	since  time.Time     // when it opened
	probe  time.Time     // when the next canary is due while it is open
	listen func()        // told of each change; must not block
}

func newBreaker(name string, stuck func() bool, changed func()) *breaker {
	b := &breaker{listen: changed}
	b.closed.Store(true)
	b.b = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         name,
		MaxRequests:  1,
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      openMin / 2, // the canary's own time-table is longer
		IsSuccessful: func(err error) bool { return hsm.FaultOf(err) != hsm.Device },
		// What says nothing about the device must count neither way.
		IsExcluded: func(err error) bool {
			f := hsm.FaultOf(err)
			return errors.Is(err, errAbandoned) || f == hsm.Busy || f == hsm.Locked
		},
		ReadyToTrip: func(c gobreaker.Counts) bool {
			n := c.TotalSuccesses + c.TotalFailures
			return c.ConsecutiveFailures >= 5 || n >= 20 && c.TotalFailures*2 >= n || stuck()
		},
		// Runs under the breaker's own lock: nothing here may ask it anything.
		OnStateChange: func(_ string, _, to gobreaker.State) {
			b.closed.Store(to == gobreaker.StateClosed)
			if to == gobreaker.StateOpen {
				b.schedule()
			}
			b.listen()
		},
	})
	return b
}

// schedule sets the next canary: the open time doubles from openMin to openMax, with jitter of a quarter either way.
func (b *breaker) schedule() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = min(max(openMin, 2*b.open), openMax)
	b.since = time.Now()
	b.probe = b.since.Add(b.open*3/4 + rand.N(b.open/2))
}

// admit returns the report of one attempt, to be called exactly once: gobreaker would count a second call
// as another attempt. The job's states see to that. Callers are admitted while the breaker is closed, a canary also when it is half open.
func (b *breaker) admit(canary bool) (func(error), bool) {
	if !canary && !b.closed.Load() {
		return nil, false
	}
	done, err := b.b.Allow()
	if err != nil {
		return nil, false
	}
	return done, true
}

// due tells when the next canary may go while the breaker is open. last: no other member is able, so
// waiting longer than the shortest time helps nobody.
func (b *breaker) due(last bool) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if last && b.open > openMin {
		return b.since.Add(openMin)
	}
	return b.probe
}

// healthy forgets the grown open time, after a canary's success.
func (b *breaker) healthy() {
	b.mu.Lock()
	b.open = 0
	b.mu.Unlock()
}

// state is the standard's word: closed, half-open or open.
func (b *breaker) state() string { return b.b.State().String() }
