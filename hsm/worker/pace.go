package worker

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Bounds of the average cost of a call between which a worker keeps the number of processors it has.
const (
	fastCall = 20 * time.Microsecond
	slowCall = 35 * time.Microsecond
	// paceEvery is how many calls pass between two looks at the average; changing the number stops the world for a moment.
	paceEvery = 4096
)

// pace fits the number of Go's processors to what the token's calls cost. Waking a second thread costs a few microseconds: beside
// a MAC of a software token that is much, and one processor gets more done; calls of a network HSM, which
// take their time outside of Go, need one free for whoever comes next.
type pace struct {
	calls atomic.Uint64
	fast  atomic.Bool
	usual int
	set   func(int) // GOMAXPROCS
}

func newPace() *pace {
	return &pace{usual: runtime.GOMAXPROCS(0), set: func(n int) { runtime.GOMAXPROCS(n) }}
}

// spent is told of each call, with the average cost so far.
func (p *pace) spent(average time.Duration) {
	if p.calls.Add(1)%paceEvery != 0 {
		return
	}
	switch fast := p.fast.Load(); {
	case !fast && average < fastCall && p.fast.CompareAndSwap(false, true):
		p.set(max(1, p.usual/4)) // the members of a pool share the machine
	case fast && average > slowCall && p.fast.CompareAndSwap(true, false):
		p.set(p.usual)
	}
}
