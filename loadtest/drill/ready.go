//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
)

// truthful is how soon /readyz must tell the truth.
const truthful = time.Second

// readyz asks every 10 ms until /readyz says what is wanted, and returns how long that took from a moment; -1 when it did not
// for half a minute.
func (st *stage) readyz(ctx context.Context, want bool, from time.Time) time.Duration {
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	for time.Since(from) < 30*time.Second {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, st.g.URL()+"/readyz", nil)
		if err != nil {
			return -1
		}
		if res, err := client.Do(req); err == nil {
			_ = res.Body.Close()
			if (res.StatusCode == http.StatusOK) == want {
				return time.Since(from)
			}
		}
		if !rig.Sleep(ctx, 10*time.Millisecond) {
			break
		}
	}
	return -1
}

// ready breaks every member at once and watches /readyz, without any load.
func ready(ctx context.Context, st *stage) error {
	const name = "/readyz, polled each 10 ms"
	every := func(do func(i int) error) error {
		for i := range st.members {
			if err := do(i); err != nil {
				return err
			}
		}
		return nil
	}
	var pids []int
	for _, x := range []struct {
		what       string
		hurt, mend func() error // mend nil: they come back by themselves
	}{
		{"stopped", func() error { return send(syscall.SIGSTOP, pids...) }, func() error { return send(syscall.SIGCONT, pids...) }},
		{"hung", func() error { return every(func(i int) error { return st.rule(i, "crypto", faulthsm.Hang())(ctx) }) }, func() error { return every(func(i int) error { return st.heal(i)(ctx) }) }},
		{"dead", func() error {
			return every(func(i int) error { return st.rule(i, "session", faulthsm.Return(hsm.DeviceError))(ctx) })
		}, func() error { return every(func(i int) error { return st.heal(i)(ctx) }) }},
		{"killed", func() error { return send(syscall.SIGKILL, pids...) }, nil},
	} {
		if err := st.whole(ctx); err != nil {
			return err
		}
		var err error
		if pids, err = st.pids(ctx); err != nil {
			return err
		}
		if st.readyz(ctx, true, time.Now()) < 0 {
			return fmt.Errorf("not ready, though every member serves")
		}
		from := time.Now()
		if err := x.hurt(); err != nil {
			return err
		}
		st.within(name, "all members "+x.what+": not ready within 1 s", st.readyz(ctx, false, from), truthful)
		from = time.Now()
		if x.mend != nil {
			if err := x.mend(); err != nil {
				return err
			}
		}
		back := make(chan time.Duration, 1)
		if x.what == "killed" || x.what == "dead" { // they serve when the pool has found out, not at once
			go func() {
				_ = st.g.Until(ctx, time.Minute, "has one member again", func() error { return st.some(ctx) })
				back <- time.Since(from)
			}()
		} else {
			back <- 0
		}
		took := st.readyz(ctx, true, from)
		if took >= 0 {
			took = max(0, took-<-back)
		}
		st.within(name, "… and one back: ready within 1 s after it serves", took, truthful)
	}
	return nil
}

// some returns nil when some member is active.
func (st *stage) some(ctx context.Context) error {
	s, err := st.g.Stat(ctx)
	if err != nil {
		return err
	}
	for _, m := range s.Members {
		if m.State == "active" {
			return nil
		}
	}
	return fmt.Errorf("no member serves")
}

// restarted is the gateway stopped by SIGTERM and started again under full load, with clients who ask again.
func restarted(ctx context.Context, st *stage) error {
	const name = "the gateway restarted by SIGTERM, full load"
	if err := st.whole(ctx); err != nil {
		return err
	}
	t := newTape(st.deadline)
	t.deadline = patience // of a patient client; its own deadline counts for each try
	s := st.saturation(t)
	s.patient = true
	loaded, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { s.run(loaded); close(done) }()
	rig.Sleep(ctx, st.calm)
	m := marks{hurt: t.now()}
	if err := st.g.Terminate(); err != nil {
		return err
	}
	m.mended = t.now()
	if err := st.g.Start(st.program, st.config, st.log); err != nil {
		return err
	}
	if err := st.g.Ready(ctx, members, time.Minute); err != nil {
		return err
	}
	m.whole = t.now()
	rig.Sleep(ctx, st.calm)
	m.end = t.now()
	stop()
	<-done
	st.report.count(s)
	st.answers(name, t, m)
	st.report.must(name, "no request is left without an answer by the shutdown", fmt.Sprint(s.unanswered.Load()), s.unanswered.Load() == 0)
	before := t.between(0, m.hurt).Rate
	st.within(name, "drained within 5 s", m.mended-m.hurt, 5*time.Second)
	st.within(name, fmt.Sprintf("90 %% of %.0f/s within 3 s after all serve", before), t.full(m.whole, m.end, before*9/10), 3*time.Second)
	return nil
}
