package key

import (
	"sync/atomic"
	"time"
)

// ClockSlack is how far the machine's clock is believed when it departs from the time that passed by the monotonic
// clock: in all, not for each step, plus one part in 2000, the fastest that a disciplined clock is slewed.
const ClockSlack = 5 * time.Minute

// Clock tells the time by which keys are judged. It never goes back, and a machine's clock that jumps neither ends keys
// nor keeps them alive: the time told is the machine's, held within [ClockSlack] of what the monotonic clock counted
// since the start or the last [Clock.Confirm], and never below the highest time told.
//
// A jump beyond the slack is not followed; [Clock.Read] reports it until the clock is right again or somebody confirms.
// A machine that was asleep looks like that too, since the monotonic clock of Linux sleeps with it.
//
// A Clock is safe for concurrent use. Its readings are whole milliseconds, so that the hot path writes to shared
// memory once a millisecond at most.
type Clock struct {
	source  ClockSource
	anchor  atomic.Pointer[anchor]
	highest atomic.Int64 // Unix milliseconds
}

// ClockSource returns the machine's clock and the time that passed since some fixed moment by a clock that nobody sets.
type ClockSource func() (wall time.Time, elapsed time.Duration)

// anchor is a moment at which both clocks were believed.
type anchor struct {
	wall    time.Time
	elapsed time.Duration
}

// Reading is what a Clock says of the machine's clock.
type Reading struct {
	// Now is the time to judge keys by.
	Now time.Time
	// Wall is the machine's clock, and Ahead how far it is ahead of the time counted since the clock was last believed;
	// negative is behind.
	Wall  time.Time
	Ahead time.Duration
	// Held: Ahead is beyond the slack, so the machine's clock is not followed.
	Held bool
}

// SystemClock returns a source that reads the machine's clocks.
func SystemClock() ClockSource {
	start := time.Now()
	return func() (time.Time, time.Duration) {
		t := time.Now()
		return t.Round(0), t.Sub(start) // Round strips the monotonic reading, Sub uses it
	}
}

// NewClock returns a clock that begins at the machine's time, or at seen where that is later: the highest time told
// before, which the store keeps, zero when there is none. That a clock is ahead at the start cannot be told from here:
// compare it with another one (the database's) and call Confirm.
func NewClock(source ClockSource, seen time.Time) *Clock {
	c := &Clock{source: source}
	wall, elapsed := source()
	if wall.Before(seen) {
		wall = seen
	}
	c.anchor.Store(&anchor{wall, elapsed})
	c.highest.Store(wall.UnixMilli())
	return c
}

// Now returns the time to judge keys by, in UTC and whole milliseconds. It is never before what an earlier call returned.
func (c *Clock) Now() time.Time { return c.Read().Now }

// Read returns the time together with how the machine's clock stands to it.
func (c *Clock) Read() Reading {
	a := c.anchor.Load()
	wall, elapsed := c.source()
	passed := elapsed - a.elapsed
	slack := ClockSlack + max(passed, 0)/2000
	r := Reading{Wall: wall, Ahead: wall.Sub(a.wall.Add(passed))}
	r.Held = r.Ahead.Abs() > slack
	believed := a.wall.Add(passed + min(max(r.Ahead, -slack), slack))
	r.Now = time.UnixMilli(c.raise(believed.UnixMilli())).UTC()
	return r
}

// Confirm says that it is now t by a clock that is trusted: the database's, or an operator's order. From here on the
// machine's clock is measured against t. A t before the highest time told does not take that back: Now stands still
// until t has caught up.
func (c *Clock) Confirm(t time.Time) {
	_, elapsed := c.source()
	c.anchor.Store(&anchor{t.Round(0), elapsed})
}

// raise makes ms the highest time told unless a later one was, and returns the highest.
func (c *Clock) raise(ms int64) int64 {
	for {
		top := c.highest.Load()
		if ms <= top {
			return top
		}
		if c.highest.CompareAndSwap(top, ms) {
			return ms
		}
	}
}
