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
	sampled  [classes]atomic.Int64  // UnixNano of the last sample
	failed   [classes]atomic.Int64  // failures since the last success
	usual    [classes]pace          // without what failures add to the average
	paces    [sorts]pace
	probe    atomic.Int64 // how long a canary takes on average, nanoseconds: one that came late changes it little
	inflight atomic.Int64 // callers who wait
	running  atomic.Int64 // sessions at work, for callers who wait and for those who have gone
	heard    atomic.Int64 // UnixNano of the last answer, or of when something came to an idle member
	erred    atomic.Int64 // UnixNano of the last failure, of any class
	answered atomic.Int64 // UnixNano of the last answer
	since    atomic.Int64 // UnixNano of the last (re)join
}

// Bounds of the time for which a member that failed at a class of operation is asked for it only when no other can be: it doubles
// with each failure, so a member that keeps failing gets one try a second.
const (
	avoidMin = 25 * time.Millisecond
	avoidMax = time.Second
)

// observe takes one duration into the peak-EWMA: it jumps up at once and comes down slowly
// (after Finagle's Peak EWMA, a tenth for each sample). Times are UnixNano.
func (l *load) observe(c Class, d time.Duration, at int64) {
	l.failed[c].Store(0)
	l.sample(c, d, at)
}

func (l *load) sample(c Class, d time.Duration, at int64) {
	faded := fade(at - l.sampled[c].Swap(at))
	for {
		old := l.ewma[c].Load()
		was, now := math.Float64frombits(old)*faded, float64(d)
		if now < was {
			now = was + 0.1*(now-was)
		}
		if l.ewma[c].CompareAndSwap(old, math.Float64bits(now)) {
			return
		}
	}
}

// fade is what counts of a sample so many nanoseconds old, or one bad moment would keep a member idle for good.
func fade(age int64) float64 {
	if age < int64(100*time.Millisecond) {
		return 1
	}
	return math.Exp2(-float64(age) / float64(time.Second))
}

// penalise counts a failure as a slow success, so that a member that fails fast does not look best.
func (l *load) penalise(c Class, at int64) {
	was := math.Float64frombits(l.ewma[c].Load())
	l.failed[c].Add(1)
	l.erred.Store(at)
	l.sample(c, time.Duration(min(max(4*was, float64(20*time.Millisecond)), float64(5*time.Second))), at)
}

func (l *load) latency(c Class) time.Duration {
	return time.Duration(math.Float64frombits(l.ewma[c].Load()))
}

// cost is what two candidates are compared by. A member that joined less than slow ago costs up to ten times as much.
func (l *load) cost(c Class, slow time.Duration, now int64) float64 {
	mean, busy := math.Float64frombits(l.ewma[c].Load()), l.inflight.Load()
	if busy == 0 { // one that is busy and gives no answers does not get cheaper by that
		mean *= fade(now - l.sampled[c].Load())
	}
	// A member that has not been measured yet costs little, so that it is tried.
	cost := (mean + 1000) * float64(busy+1)
	if age := now - l.since.Load(); age < int64(slow) {
		cost /= max(0.1, float64(age)/float64(slow))
	}
	return cost
}

// silence is how long a member may give no answer at all while it has work before others are asked first; at least
// four times what nearly all operations of the class stay below.
const silence = 250 * time.Millisecond

// begin counts an operation that comes to the member at a time.
func (l *load) begin(at time.Time) {
	if l.inflight.Add(1) == 1 && l.running.Load() == 0 {
		l.heard.Store(at.UnixNano())
	}
}

// run counts an operation that a session begins at a time, which may outlive its caller's patience, and end its end.
func (l *load) run(at time.Time) {
	if l.running.Add(1) == 1 && l.inflight.Load() == 0 { // a canary
		l.heard.Store(at.UnixNano())
	}
}

func (l *load) end() { l.running.Add(-1) }

// silent reports whether the member has work and gives no answers, as one does that hangs.
func (l *load) silent(c Class, now int64) bool {
	return (l.inflight.Load() > 0 || l.running.Load() > 0) && now-l.heard.Load() > int64(max(silence, l.usual[c].times(4)))
}

// avoided reports whether others are asked first for a class: because the member failed at it just now, or because it has work
// and gives no answers, as one does that hangs.
func (l *load) avoided(c Class, now int64) bool {
	if l.silent(c, now) {
		return true
	}
	n := l.failed[c].Load()
	if n == 0 {
		return false
	}
	return now-l.sampled[c].Load() < int64(min(avoidMin<<min(n-1, 10), avoidMax))
}

// unsure reports whether others are asked first when an operation has failed once already: because the member failed at anything within
// the last second, or has not succeeded at this class since it failed at it. Somebody's first attempt finds out how it is.
func (l *load) unsure(c Class, now int64) bool {
	return l.failed[c].Load() > 0 || now-l.erred.Load() < int64(avoidMax)
}

// pick returns the cheaper of two random members among those that fit, or nil, and whether others fit as well. Those that just
// failed at this class come last: without that, two failing members of three would be the two random ones often enough
// to use up the retry budget. again: the operation has failed already, and has not many attempts more.
func (p *Pool) pick(c Class, again bool, fits func(*member) bool) (_ *member, more bool) {
	all := *p.members.Load()
	var room, doubtful, spare [8]*member
	able, unsure, ailing := room[:0], doubtful[:0], spare[:0]
	now := time.Now().UnixNano()
	for _, m := range all {
		switch {
		case !fits(m):
		case m.load.avoided(c, now):
			ailing = append(ailing, m)
		case again && m.load.unsure(c, now):
			unsure = append(unsure, m)
		default:
			able = append(able, m)
		}
	}
	more = len(able)+len(unsure)+len(ailing) > 1
	if len(able) == 0 {
		able = unsure
	}
	if len(able) == 0 {
		able = ailing
	}
	switch len(able) {
	case 0:
		return nil, false
	case 1:
		return able[0], more
	}
	i := rand.IntN(len(able))
	j := rand.IntN(len(able) - 1)
	if j >= i {
		j++
	}
	if able[j].load.cost(c, p.cfg.SlowStart, now) < able[i].load.cost(c, p.cfg.SlowStart, now) {
		i = j
	}
	return able[i], true
}
