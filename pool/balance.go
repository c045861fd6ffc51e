package pool

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// load is a member's cost, by class of operation: a key generation must not make
// a member look slow for a MAC.
type load struct {
	ewma     [classes]atomic.Uint64 // float64 bits, nanoseconds
	inflight atomic.Int64
	since    atomic.Int64 // UnixNano of the last (re)join
}

// observe takes one duration into the peak-EWMA: it jumps up at once and comes down slowly
// (after Finagle's Peak EWMA, a tenth for each sample).
func (l *load) observe(c Class, d time.Duration) {
	for {
		old := l.ewma[c].Load()
		was, now := math.Float64frombits(old), float64(d)
		if now < was {
			now = was + 0.1*(now-was)
		}
		if l.ewma[c].CompareAndSwap(old, math.Float64bits(now)) {
			return
		}
	}
}

// penalise counts a failure as a slow success, so that a member that fails fast does not look best.
func (l *load) penalise(c Class) {
	was := math.Float64frombits(l.ewma[c].Load())
	l.observe(c, time.Duration(min(max(4*was, float64(20*time.Millisecond)), float64(5*time.Second))))
}

func (l *load) latency(c Class) time.Duration {
	return time.Duration(math.Float64frombits(l.ewma[c].Load()))
}

// cost is what two candidates are compared by. A member that joined less than slow ago costs up to ten times as much.
func (l *load) cost(c Class, slow time.Duration, now int64) float64 {
	// A member that has not been measured yet costs little, so that it is tried.
	cost := (math.Float64frombits(l.ewma[c].Load()) + 1000) * float64(l.inflight.Load()+1)
	if age := now - l.since.Load(); age < int64(slow) {
		cost /= max(0.1, float64(age)/float64(slow))
	}
	return cost
}

// pick returns the cheaper of two random members among those that fit, or nil, and whether others fit as well.
func (p *Pool) pick(c Class, fits func(*member) bool) (_ *member, more bool) {
	all := *p.members.Load()
	var room [8]*member
	able := room[:0]
	for _, m := range all {
		if fits(m) {
			able = append(able, m)
		}
	}
	switch len(able) {
	case 0:
		return nil, false
	case 1:
		return able[0], false
	}
	i := rand.IntN(len(able))
	j := rand.IntN(len(able) - 1)
	if j >= i {
		j++
	}
	now := time.Now().UnixNano()
	if able[j].load.cost(c, p.cfg.SlowStart, now) < able[i].load.cost(c, p.cfg.SlowStart, now) {
		i = j
	}
	return able[i], true
}
