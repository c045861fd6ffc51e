package pool

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// Bounds of when an operation that runs counts as an outlier.
const (
	outlierTimes = 5                     // the time that 99 of 100 of its sort stay below
	outlierMin   = 50 * time.Millisecond // shorter ones are not worth a second try
	riseEvery    = 5 * time.Millisecond  // at most once in this time does an estimate rise
	paceLeast    = 100_000               // nanoseconds, below which it need not rise step by step
	paceKnown    = 20                    // operations after which a member's pace for a sort is known
)

// sorts is how many sorts of operations are told apart; those that share a place are taken for one.
const sorts = 64

// sort is a place for operations of like duration: the same call with the same mechanism, the same type and size of key, and about
// as much input. An RSA signature must not look slow beside MACs, which are of its class.
type sort uint8

func sortOf(k *Key, op *hsm.Op, class Class) sort {
	h := uint64(op.Kind)<<8 | uint64(class)
	h = h<<32 ^ uint64(op.Mech.Type) ^ uint64(bits.Len(uint(max(len(op.In), op.Len)>>10)))<<56
	if k != nil {
		h ^= uint64(k.Spec.Type)<<40 ^ uint64(k.Spec.Bits)<<20
	}
	return sort(h * 0x9E3779B97F4A7C15 >> 58)
}

// pace is how long operations of one sort take on one member: an estimate of the time that 99 of 100 stay below.
type pace struct {
	high atomic.Uint64 // float64 bits, nanoseconds
	seen atomic.Uint32 // operations, up to paceKnown
	last atomic.Int64  // UnixNano of the last one
	rose atomic.Int64  // UnixNano of when the estimate rose last
}

// observe takes the duration of an operation that ended at a time. At first the estimate is the longest; then it rises by a tenth with what
// is above and falls by a thousandth with what is not, so that it stays where one in a hundred is above. What is long ago fades: of what
// is seldom done a few recent ones count, or one bad moment would be remembered for hours. Many that come late together, as when a
// hung token is back, are one such moment.
func (p *pace) observe(d time.Duration, at int64) {
	fresh := p.seen.Load() < paceKnown
	if fresh {
		p.seen.Add(1)
	}
	faded := fade(at - p.last.Swap(at))
	rose := p.rose.Load()
	rises := at-rose >= int64(riseEvery) && float64(d) > math.Float64frombits(p.high.Load()) && p.rose.CompareAndSwap(rose, at)
	for {
		old := p.high.Load()
		was, now := math.Float64frombits(old), float64(d)
		switch {
		case now > was && (fresh || rises):
			if !fresh {
				now = min(now, max(was*1.1, paceLeast))
			}
		case now > was:
			now = was
		default: // it fades to no less than what was seen now
			now = max(now, was*faded*0.999)
		}
		if p.high.CompareAndSwap(old, math.Float64bits(now)) {
			return
		}
	}
}

// times is n times the estimate, 0 while nothing was observed.
func (p *pace) times(n float64) time.Duration {
	return time.Duration(n * math.Float64frombits(p.high.Load()))
}

// outlier is how long an operation may run before the caller is better served elsewhere, 0 while that is not known.
func (p *pace) outlier() time.Duration {
	if p.seen.Load() < paceKnown {
		return 0
	}
	return max(p.times(outlierTimes), outlierMin)
}
