//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// act is one bad day.
type act struct {
	name string
	// short: it belongs to the short form.
	short bool
	play  func(context.Context, *stage) error
}

// marks are when the parts of a bad day began, from the begin of its tape.
type marks struct {
	hurt, mended time.Duration
	whole        time.Duration // every member serves again
	end          time.Duration
}

// trouble is what happens to one member: hurt, and after a time mend, which may be nil.
type trouble struct {
	name string
	full bool // under full load, else at the moderate rate
	// member is whose states are watched.
	member int
	lasts  time.Duration
	hurt   func(context.Context) error
	mend   func(context.Context) error
}

// day plays a trouble under load, with calm before and after, and judges the answers. It returns what the load saw, and which states
// the member had meanwhile.
func (st *stage) day(ctx context.Context, x trouble) (t *tape, m marks, states map[pool.State]bool, err error) {
	if err := st.whole(ctx); err != nil {
		return nil, m, nil, err
	}
	t, stop := st.load(ctx, x.full)
	defer stop()
	if !rig.Sleep(ctx, st.calm) {
		return t, m, nil, ctx.Err()
	}
	watched, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	was := make(chan map[pool.State]bool, 1)
	go func() { was <- st.seen(watched, x.member) }()
	m.hurt = t.now()
	if err := x.hurt(ctx); err != nil {
		return t, m, nil, err
	}
	rig.Sleep(ctx, x.lasts)
	m.mended = t.now()
	if x.mend != nil {
		if err := x.mend(context.WithoutCancel(ctx)); err != nil {
			return t, m, nil, err
		}
	}
	if err := st.whole(ctx); err != nil {
		return t, m, nil, err
	}
	m.whole = t.now()
	stopWatching()
	rig.Sleep(ctx, st.calm)
	m.end = t.now()
	stop()
	st.answers(x.name, t, m)
	return t, m, <-was, ctx.Err()
}

// answers judges what must always hold.
func (st *stage) answers(name string, t *tape, m marks) {
	f := t.between(0, m.end)
	st.report.must(name, "no failed request", fmt.Sprintf("%d of %d", f.Failed, f.N), f.Failed == 0, t.examples...)
	st.report.must(name, "no wrong answer", fmt.Sprint(f.Wrong), f.Wrong == 0, t.examples...)
	st.report.must(name, "no answer later than the deadline + 50 ms", fmt.Sprintf("longest %.0f ms", f.Max), f.Late == 0, t.examples...)
	st.report.note(name, t.between(0, m.hurt), t.between(m.hurt, m.whole), t.between(m.whole, m.end))
}

// times is how often the p99 before fits into the one meanwhile.
func (st *stage) times(name, promise string, t *tape, m marks) {
	before, during := t.between(0, m.hurt), t.between(m.hurt, m.whole)
	st.report.should(name, promise, fmt.Sprintf("%.1f ms, before %.1f ms: × %.1f", during.P99, before.P99, during.P99/max(before.P99, 0.01)), during.P99 <= 3*before.P99)
}

// within judges a time, which is not measured where it is below 0.
func (st *stage) within(name, promise string, took, most time.Duration) {
	if took < 0 {
		st.report.should(name, promise, "not seen", false)
		return
	}
	st.report.should(name, promise, fmt.Sprintf("%.2f s", took.Seconds()), took <= most)
}

// rule lets calls of a member fail by a rule, and heal takes it back.
func (st *stage) rule(member int, on string, do ...faulthsm.Effect) func(context.Context) error {
	return func(ctx context.Context) error {
		return st.members[member].Module.Apply(ctx, faulthsm.Rule{ID: "drill", On: []string{on}, Do: do})
	}
}

func (st *stage) heal(member int) func(context.Context) error {
	return func(ctx context.Context) error { return heal(ctx, st.members[member].Module) }
}

// heal ends every rule. A process that has gone meanwhile need not hear of it.
func heal(ctx context.Context, m *faulthsm.Module) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := m.Apply(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return m.Write()
	}
	return nil
}

// dead is a device that says DEVICE_ERROR to everything.
func dead(ctx context.Context, st *stage) error {
	const name = "a dead device, then healed"
	t, m, states, err := st.day(ctx, trouble{name: name, member: 1, lasts: st.lasts(3 * time.Second),
		hurt: st.rule(1, "session", faulthsm.Return(hsm.DeviceError)), mend: st.heal(1)})
	if err != nil {
		return err
	}
	st.report.must(name, "its breaker opens", fmt.Sprint(states[pool.Ejected] || states[pool.Joining]), states[pool.Ejected] || states[pool.Joining])
	st.times(name, "p99 meanwhile at most 3 times that before", t, m)
	st.within(name, "serves within 5 s after healing", m.whole-m.mended, 5*time.Second)
	return nil
}

// pulled is a token that goes away and comes back.
func pulled(ctx context.Context, st *stage) error {
	const name = "a token pulled out and put back"
	t, m, _, err := st.day(ctx, trouble{name: name, member: 2, lasts: st.lasts(3 * time.Second),
		hurt: func(ctx context.Context) error { return st.members[2].Module.Apply(ctx, faulthsm.Token{Absent: true}) }, mend: st.heal(2)})
	if err != nil {
		return err
	}
	st.times(name, "p99 meanwhile at most 3 times that before", t, m)
	st.within(name, "serves within 5 s after it was put back", m.whole-m.mended, 5*time.Second)
	return nil
}

// slow is a member that takes 100 ms for each call.
func slow(ctx context.Context, st *stage) error {
	const name = "a slow member, 100 ms a call"
	t, m, _, err := st.day(ctx, trouble{name: name, member: 0, lasts: st.lasts(5 * time.Second),
		hurt: st.rule(0, "crypto", faulthsm.Sleep(faulthsm.Fixed(100*time.Millisecond))), mend: st.heal(0)})
	if err != nil {
		return err
	}
	before, during := t.between(0, m.hurt), t.between(m.hurt, m.whole)
	st.report.should(name, "p99 of good requests at most 3 times that before", fmt.Sprintf("%.1f ms, before %.1f ms: × %.1f; with callers' mistakes %.1f ms", during.Good, before.Good, during.Good/max(before.Good, 0.01), during.P99), during.Good <= 3*before.Good)
	return nil
}
