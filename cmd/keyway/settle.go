package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/pool"
)

// settle waits until each member of p serves or has said why not, and one serves. It calls joined for each that begins
// to serve, with their number so far, and returns it. The error tells of each member that does not serve; where
// none does and none can come any more, and where ctx ends, that is the end.
func settle(ctx context.Context, p *pool.Pool, joined func(active int)) (active int, err error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	seen := 0
	for {
		s := readSettled(p.Stat())
		for seen < s.active {
			seen++
			joined(seen)
		}
		if s.undecided == 0 && (s.active > 0 || s.failing == 0) {
			return s.active, s.err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s.active, errors.Join(s.err, fmt.Errorf("%d of %d members of pool %s serve: %w", s.active, len(p.Stat().Members), p.Stat().Pool, ctx.Err()))
		}
	}
}

// settled counts a pool's members.
type settled struct {
	active    int
	undecided int   // their first attempt is under way
	failing   int   // another attempt will follow
	err       error // why each of the others does not serve
}

func readSettled(st pool.Stat) (s settled) {
	bad := func(format string, a ...any) { s.err = errors.Join(s.err, fmt.Errorf(format, a...)) }
	for _, m := range st.Members {
		switch {
		case m.State == pool.Active:
			s.active++
		case m.State == pool.Latched:
			bad("member %s is latched: %s: put its PIN file right, then keyway member latch-clear --pool %s %s", m.Name, m.Reason, st.Pool, m.Name)
		case m.State == pool.Drained || m.State == pool.Draining:
			bad("member %s is %s: keyway member resume takes it into use again", m.Name, m.State)
		case m.Reason == "":
			s.undecided++
		default:
			s.failing++
			bad("member %s is %s: %s", m.Name, m.State, m.Reason)
		}
	}
	return s
}
