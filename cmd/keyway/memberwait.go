package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"keyway/lifecycle/adminapi"
	"keyway/pool"
)

const (
	// memberLook is how often somebody who waits for a member looks at it.
	memberLook = 200 * time.Millisecond
	// memberTell is how often at most it is told how far a member is, while it stays in one state.
	memberTell = time.Second
	// removed is the state of a member that is gone.
	removed pool.State = "removed"
)

// memberFlags are those of every order to one member.
type memberFlags struct {
	*adminFlags
	pool    *string
	noWait  bool
	timeout time.Duration
}

func (f *memberFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.noWait, "no-wait", false, "end when the order is given, not when it is done")
	c.Flags().DurationVar(&f.timeout, "timeout", 2*time.Minute, "how long to wait; the order goes on after it")
}

// path is that of a member, or of what is done to it, with the pool in the query.
func (f *memberFlags) path(q url.Values, parts ...string) string {
	if q == nil {
		q = url.Values{}
	}
	if *f.pool != "" {
		q.Set("pool", *f.pool)
	}
	path := at(append([]string{"members"}, parts...)...)
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return path
}

// memberOrder is an order to one member: how it is given, and when it is done.
type memberOrder struct {
	name string
	give func(context.Context, *adminClient) (adminapi.MemberAnswer, error)
	// done reports whether the member is what was ordered; an error says that it never will be.
	done func(pool.MemberStat) (bool, error)
}

// carryOut gives an order and, unless told not to, waits until it is done, telling on standard error what happens meanwhile.
// Whoever stops waiting leaves the order as it is.
func (f *memberFlags) carryOut(c *cobra.Command, o memberOrder) (adminapi.MemberAnswer, error) {
	client, err := f.client()
	if err != nil {
		return adminapi.MemberAnswer{}, err
	}
	if f.noWait {
		return o.give(c.Context(), client)
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("after %s", f.timeout))
	defer cancel()
	w := &memberWatch{out: f.out, name: o.name}
	defer f.out.notes.show("")
	type answer struct {
		m   adminapi.MemberAnswer
		err error
	}
	given := make(chan answer, 1)
	go func() {
		m, err := o.give(context.WithoutCancel(ctx), client)
		given <- answer{m, err}
	}()
	tick := time.NewTicker(memberLook)
	defer tick.Stop()
	for ordered := false; ; {
		select {
		case a := <-given:
			if a.err != nil {
				return a.m, a.err
			}
			w.tell(a.m, time.Now())
			ordered, given = true, nil
		case <-tick.C:
		case <-ctx.Done():
			return w.last, fmt.Errorf("no longer waiting for member %s, which is %s (%w): the order goes on, keyway member list shows how far it is", o.name, w.describe(), context.Cause(ctx))
		}
		m, err := f.look(ctx, client, o.name)
		if err != nil {
			if ctx.Err() != nil || !ordered {
				continue // it is told above; before the order has begun there may be no such member
			}
			return m, err
		}
		w.tell(m, time.Now())
		if !ordered {
			continue
		}
		if done, err := o.done(m.MemberStat); done || err != nil {
			return m, err
		}
	}
}

// look asks for one member; one that is not there is removed.
func (f *memberFlags) look(ctx context.Context, client *adminClient, name string) (m adminapi.MemberAnswer, err error) {
	err = client.do(ctx, http.MethodGet, f.path(nil, name), nil, &m)
	var p *problemError
	if errors.As(err, &p) && p.Status == http.StatusNotFound {
		return adminapi.MemberAnswer{MemberStat: pool.MemberStat{Name: name, State: removed}}, nil
	}
	return m, err
}

// memberWatch tells what becomes of a member, each thing once.
type memberWatch struct {
	out   *output
	name  string
	found int // sentences about the trial that have been told
	last  adminapi.MemberAnswer
	told  time.Time
	line  string
}

func (w *memberWatch) tell(m adminapi.MemberAnswer, now time.Time) {
	for ; w.found < len(m.Trial); w.found++ {
		w.say(m.Trial[w.found])
	}
	same := m.State == w.last.State
	w.last = m
	line := w.describe()
	if m.State == adminapi.StateTrying || m.State == removed && w.line == "" || line == w.line {
		return
	}
	if same && w.out.notes.terminal != nil {
		w.out.notes.show(w.name + ": " + line)
		return
	}
	if same && now.Sub(w.told) < memberTell {
		return
	}
	w.line, w.told = line, now
	w.say(line)
}

// say writes one line, of JSON where that is asked for.
func (w *memberWatch) say(line string) {
	if w.out.json {
		_ = json.NewEncoder(w.out.notes).Encode(map[string]string{"member": w.name, "doing": line}) // to a standard error that is gone
		return
	}
	w.out.note("%s: %s", w.name, printable(line))
}

// describe says in a few words how far the member is.
func (w *memberWatch) describe() string {
	m := w.last
	s := string(m.State)
	switch {
	case s == "":
		return "not heard of yet"
	case m.State == pool.Joining && m.Wanted > 0:
		s += fmt.Sprintf(": %d of %d sessions", m.Sessions, m.Wanted)
	case m.State == pool.Joining && m.Doing != "" && m.Reason == "":
		s += ": " + m.Doing
	case m.State == pool.Joining && m.Reason != "":
		s += ": " + m.Reason + "; it goes on trying"
	case m.State == pool.Active && m.SlowStart:
		s += ", slow start"
	case m.State == pool.Draining:
		s += fmt.Sprintf(": %d under way, %d waiting", m.Busy, m.Queued)
	case m.Reason != "":
		s += ": " + m.Reason
	}
	return strings.TrimSpace(s)
}

// serves is done when the member serves.
func serves(m pool.MemberStat) (bool, error) {
	switch m.State {
	case pool.Active:
		return true, nil
	case pool.Latched:
		return false, fmt.Errorf("member %s is latched: %s; put its PIN file right, then keyway member latch-clear %s", m.Name, printable(m.Reason), m.Name)
	case pool.Drained, pool.Draining:
		return false, fmt.Errorf("member %s is %s: keyway member resume %s takes it into use", m.Name, m.State, m.Name)
	case removed:
		return false, fmt.Errorf("member %s is gone: somebody has removed it", m.Name)
	}
	return false, nil
}

// servesOrRests is done, too, when a person has drained the member: it is there, and without a latch.
func servesOrRests(m pool.MemberStat) (bool, error) {
	if m.State == pool.Drained || m.State == pool.Draining {
		return true, nil
	}
	return serves(m)
}

// being is done when the member is in a state.
func being(want pool.State) func(pool.MemberStat) (bool, error) {
	return func(m pool.MemberStat) (bool, error) { return m.State == want, nil }
}
