//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
)

// soon is how long a killed worker is given until its death is looked for in the members' states.
const soon = 100 * time.Millisecond

// kill ends a member's worker.
func (st *stage) kill(member int) func(context.Context) error {
	return func(ctx context.Context) error {
		p, err := st.pids(ctx)
		if err != nil {
			return err
		}
		return send(syscall.SIGKILL, p[member])
	}
}

// killed is a worker that is killed at a moderate rate, and another one under full load.
func killed(ctx context.Context, st *stage) error {
	const name = "kill -9 of a worker"
	t, m, _, err := st.day(ctx, trouble{name: name, member: 0, lasts: soon, hurt: st.kill(0)})
	if err != nil {
		return err
	}
	st.times(name, "p99 until all serve at most 3 times that before", t, m)
	st.within(name, "all serve within 3 s", m.whole-m.hurt, 3*time.Second)

	const full = "kill -9 of a worker, full load"
	t, m, _, err = st.day(ctx, trouble{name: full, full: true, member: 1, lasts: soon, hurt: st.kill(1)})
	if err != nil {
		return err
	}
	st.within(full, "all serve within 3 s", m.whole-m.hurt, 3*time.Second)
	before := t.between(0, m.hurt).Rate
	st.within(full, fmt.Sprintf("90 %% of %.0f/s within 3 s after it is back", before), t.full(m.whole, m.end, before*9/10), 3*time.Second)
	return nil
}

// hung is a member whose signatures hang, at a moderate rate and under full load, and one whose process is stopped.
func hung(ctx context.Context, st *stage) error {
	const name = "C_Sign of one member hangs"
	t, m, _, err := st.day(ctx, trouble{name: name, member: 0, lasts: st.lasts(6 * time.Second), hurt: st.rule(0, "C_Sign", faulthsm.Hang()), mend: st.heal(0)})
	if err != nil {
		return err
	}
	st.times(name, "p99 meanwhile at most 3 times that before", t, m)

	const full = "C_Sign of one member hangs, full load"
	t, m, _, err = st.day(ctx, trouble{name: full, full: true, member: 1, lasts: st.lasts(4 * time.Second), hurt: st.rule(1, "C_Sign", faulthsm.Hang()), mend: st.heal(1)})
	if err != nil {
		return err
	}
	before, during := t.between(0, m.hurt), t.between(m.hurt, m.mended)
	st.report.should(full, "half of the throughput and more meanwhile", fmt.Sprintf("%.0f of %.0f/s", during.Rate, before.Rate), during.Rate >= before.Rate/2)

	for _, under := range []bool{false, true} {
		name := "a worker is stopped (SIGSTOP)"
		if under {
			name += ", full load"
		}
		var pid int
		t, m, _, err = st.day(ctx, trouble{name: name, full: under, member: 2, lasts: st.lasts(4 * time.Second),
			hurt: func(ctx context.Context) error {
				p, err := st.pids(ctx)
				if err != nil {
					return err
				}
				pid = p[2]
				return send(syscall.SIGSTOP, pid)
			},
			mend: func(context.Context) error { return send(syscall.SIGCONT, pid) }})
		if err != nil {
			return err
		}
		if !under {
			st.times(name, "p99 meanwhile at most 3 times that before", t, m)
			continue
		}
		before, during := t.between(0, m.hurt), t.between(m.hurt, m.mended)
		st.report.should(name, "half of the throughput and more meanwhile", fmt.Sprintf("%.0f of %.0f/s", during.Rate, before.Rate), during.Rate >= before.Rate/2)
	}
	return nil
}

// ordered are operators who drain, resume, remove and add members under full load.
func ordered(ctx context.Context, st *stage) error {
	const name = "drain, resume, remove, add; full load"
	at := func(n int) string { return "/admin/v1/members/" + st.members[n].Record.Name }
	pause := st.lasts(time.Second)
	_, _, _, err := st.day(ctx, trouble{name: name, full: true, member: 0,
		hurt: func(ctx context.Context) error {
			for _, o := range []struct {
				method, path string
				body         any
			}{
				{http.MethodPost, at(0) + "/drain", nil}, {http.MethodPost, at(0) + "/resume", nil},
				{http.MethodDelete, at(1), nil}, {http.MethodPost, "/admin/v1/members", st.members[1].Record},
			} {
				if err := st.g.Order(ctx, o.method, o.path, o.body, nil); err != nil {
					return err
				}
				rig.Sleep(ctx, pause)
			}
			return nil
		}})
	return err
}

// custodyAway is the custody token pulled out.
func custodyAway(ctx context.Context, st *stage) error {
	const name = "the custody token is away"
	made := fmt.Errorf("not tried")
	t, m, _, err := st.day(ctx, trouble{name: name, lasts: st.lasts(3 * time.Second),
		hurt: func(ctx context.Context) error {
			if err := st.custody.Module.Apply(ctx, faulthsm.Token{Absent: true}); err != nil {
				return err
			}
			made = st.g.Order(ctx, http.MethodPost, "/admin/v1/keys", map[string]any{"name": "made-without-custody", "algorithm": "aes-256"}, nil)
			return nil
		},
		mend: func(ctx context.Context) error { return heal(ctx, st.custody.Module) }})
	if err != nil {
		return err
	}
	st.report.must(name, "it was away: no key can be made", fmt.Sprint(made != nil), made != nil)
	st.times(name, "p99 meanwhile at most 3 times that before", t, m)
	return nil
}
