package pool

import (
	"sync"
	"time"
)

// Bounds of the retry budget.
const (
	retriesPerSecond = 10   // a quiet pool may always fail over
	retriesSaved     = 1000 // how many retries may be saved up
)

// budget bounds retries to a share of the requests, so that a pool in trouble is not finished off by its callers' second tries.
type budget struct {
	mu    sync.Mutex
	ratio float64
	saved float64
	last  time.Time
}

func newBudget(ratio float64) *budget {
	return &budget{ratio: ratio, saved: retriesPerSecond, last: time.Now()}
}

// earn counts one request.
func (b *budget) earn() {
	b.mu.Lock()
	b.saved = min(b.saved+b.ratio, retriesSaved)
	b.mu.Unlock()
}

// owe takes one retry whether there is one or not: what must not be refused is paid for by those that come later.
func (b *budget) owe() {
	b.mu.Lock()
	b.saved--
	b.mu.Unlock()
}

// spend takes one retry, or reports that there is none.
func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.saved = min(b.saved+retriesPerSecond*now.Sub(b.last).Seconds(), retriesSaved)
	b.last = now
	if b.saved < 1 {
		return false
	}
	b.saved--
	return true
}
