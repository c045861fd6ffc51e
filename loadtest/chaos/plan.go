//go:build linux

package main

import (
	"math/rand/v2"
	"time"
)

// plan is what is to happen, decided by the seed alone before anything runs: parts one after the other, in each of which one
// member is left able.
type plan []part

// part is a time in which the member spared has no fault.
type part struct {
	spared int // index of the member
	// next is spared in the following part: here its faults end early, so that it has recovered by then.
	next  int
	lasts time.Duration
	// lanes holds each member's faults, in their order; that of spared is empty.
	lanes [][]event
}

// event is one fault.
type event struct {
	after time.Duration // the end of the one before, or the part's begin
	fault *fault
	lasts time.Duration
}

// deck deals faults so that each comes up before any comes again.
type deck struct {
	all  []*fault
	left []*fault
}

func (d *deck) deal(r *rand.Rand) *fault {
	if len(d.left) == 0 {
		d.left = append(d.left, d.all...)
		r.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	f := d.left[len(d.left)-1]
	d.left = d.left[:len(d.left)-1]
	return f
}

// newPlan plans for a time. faults are those each member can have; one of the first so many is spared.
func newPlan(s settings, faults [][]*fault, spareable int) plan {
	r := rand.New(rand.NewPCG(s.seed, 1))
	decks := make([]*deck, len(faults))
	for i, f := range faults {
		decks[i] = &deck{all: f}
	}
	other := func(than int) int { return (than + 1 + r.IntN(spareable-1)) % spareable }
	var p plan
	spared := r.IntN(spareable)
	for planned := time.Duration(0); planned < s.time; {
		pt := part{spared: spared, next: other(spared), lasts: min(s.segment.pick(r), s.time-planned), lanes: make([][]event, len(faults))}
		for m := range faults {
			if m == spared {
				continue
			}
			end := pt.lasts
			if m == pt.next {
				end /= 3
			}
			at := time.Duration(0)
			for {
				e := event{after: s.rest.pick(r), fault: decks[m].deal(r)}
				e.lasts = e.fault.lasts.pick(r)
				if at += e.after + e.lasts; at > end && len(pt.lanes[m]) > 0 {
					decks[m].left = append(decks[m].left, e.fault) // another time
					break
				}
				pt.lanes[m] = append(pt.lanes[m], e)
				if at > end {
					break
				}
			}
		}
		p = append(p, pt)
		planned += pt.lasts
		spared = pt.next
	}
	return p
}
