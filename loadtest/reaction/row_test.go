//go:build linux && cgo

package reaction

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"keyway/hsm"
	"keyway/loadtest/faulthsm"
	"keyway/pool"
)

// reaction is what becomes of an operation, and of its member, when one call of it is answered with a code; and
// then of a dozen operations whose calls all are, on a pool without another member.
type reaction struct {
	name string

	// Once.
	by       string // the member whose answer the caller got: a, b, or "" for an error that is the caller's
	replaced int64  // sessions that a opened in the place of lost ones
	reloaded uint64 // handles loaded again
	failures uint64 // of a
	lowered  bool   // fewer operations run at once on a than before
	alarm    bool   // operators are told that a cannot use the key
	lost     bool   // a's token is opened anew: the epoch rises, and in a process of its own that is a new one

	// Always.
	err     error // what callers get; nil where it is said by fault alone
	fault   hsm.Fault
	ejected bool // the breaker opens
	reopens bool // the token is opened anew, sooner or later
}

// The reactions, after the faults of docs/design/pool.md.
var (
	blameCaller = reaction{name: "the caller's", fault: hsm.Caller}
	nextMember  = reaction{name: "the key's on this token", by: "b", failures: 1, alarm: true, err: pool.ErrKey, fault: hsm.Object}
	newSession  = reaction{name: "the session's", by: "a", replaced: 1, reloaded: anyNumber, err: pool.ErrDevice, fault: hsm.Stale}
	noSession   = reaction{name: "the sessions'", by: "a", replaced: 1, reloaded: anyNumber, fault: hsm.Stale, reopens: true}
	newHandle   = reaction{name: "the handle's", by: "a", reloaded: 1, err: pool.ErrKey, fault: hsm.Object}
	askLess     = reaction{name: "capacity", by: "b", failures: 1, lowered: true, err: pool.ErrOverloaded}
	device      = reaction{name: "the device's", by: "b", failures: 1, fault: hsm.Device, ejected: true}
	deadSession = reaction{name: "the device's, with the session", by: "b", replaced: 1, failures: 1, fault: hsm.Device, ejected: true}
	deadToken   = reaction{name: "the library's", by: "b", lost: true, reopens: true}
	// The canary passes, so the caller seems to be to blame; but the other member does it, so it was not.
	secondOpinion = reaction{name: "not to be told", by: "b", failures: 1, alarm: true, fault: hsm.Caller}
)

// anyNumber: a key that the lost session had made is loaded again, another one is not.
const anyNumber = ^uint64(0)

// row is one line of the table.
type row struct {
	code   hsm.Code
	on     string // the function that answers so
	ask    string // the operation
	vendor hsm.Vendor
	want   reaction
}

func (r row) name() string {
	code, _, _ := strings.Cut(r.code.String(), " ")
	if !strings.HasPrefix(code, "CKR_") {
		code = fmt.Sprintf("0x%X", uint64(r.code))
	}
	n := code + "-" + r.on
	if r.vendor != "" {
		n += "-" + string(r.vendor)
	}
	return n
}

func (r row) run(t *testing.T, s setup) {
	s.vendor, s.sessions = r.vendor, 3
	t.Run(r.name(), func(t *testing.T) {
		t.Parallel()
		both(t, s, func(rig *rig) {
			r.once(rig)
			r.always(rig)
		})
	})
}

// prefer sees to it that a is asked before b, has the key, and has no canary coming.
func (r *rig) prefer(ask string) {
	r.Helper()
	r.until("a serves and is asked first", func() bool {
		return r.stat("a").LastCanaryOK && (r.alone || r.b.asleep())
	})
	if by, err := r.do(ask); by != "a" {
		r.Fatalf("before anything was made to fail: answered by %q, %v", by, err)
	}
}

// dismiss takes b out of the pool.
func (r *rig) dismiss() {
	r.Helper()
	r.b.release()
	if err := r.pool.Remove(r.ctx(), "b", true); err != nil {
		r.Fatal(err)
	}
}

func (r row) once(rig *rig) {
	rig.Helper()
	if r.on != "C_UnwrapKey" {
		rig.prefer(r.ask)
	} else {
		rig.prefer("other")
	}
	was, opened, epoch := rig.stat("a"), rig.calls("C_OpenSession"), rig.stat("a").Epoch
	rig.force(faulthsm.Rule{ID: "once", On: []string{r.on}, Times: 1, Do: []faulthsm.Effect{faulthsm.Return(r.code)}})
	by, err := rig.do(r.ask)
	want := r.want
	switch {
	case want.by == "" && (hsm.FaultOf(err) != hsm.Caller || err == nil):
		rig.Errorf("once: the caller got %v from %q, want an error that is his own", err, by)
	case want.by != "" && (err != nil || by != want.by):
		rig.Errorf("once: the caller got %v, answered by %q, want an answer by %s", err, by, want.by)
	}
	if want.lost {
		rig.until("a serves again in another epoch", func() bool { s := rig.stat("a"); return s.Epoch > epoch && s.State == pool.Active && s.Sessions > 0 })
		if n := rig.opens.Load(); n != 2 {
			rig.Errorf("once: a's token was opened %d times, want 2", n)
		}
		return
	}
	if n := rig.fired("once"); n != 1 {
		rig.Fatalf("the rule acted on %d calls: the row tests nothing", n)
	}
	if want.replaced > 0 { // a slot sees to that when its caller has been told
		rig.until("a has opened another session", func() bool { return rig.calls("C_OpenSession") > opened })
	}
	// The member's counts follow what the caller is told.
	rig.until("a's failures are counted", func() bool { return rig.stat("a").Failures-was.Failures >= want.failures })
	if want.alarm {
		rig.until("operators are told", func() bool { return rig.log.count("cannot be used on this member") > 0 })
	}
	is := rig.stat("a")
	if n := rig.calls("C_OpenSession") - opened; n != want.replaced {
		rig.Errorf("once: %d sessions were opened, want %d", n, want.replaced)
	}
	if n := is.Loads - was.Loads; want.reloaded != anyNumber && n != want.reloaded && r.on != "C_UnwrapKey" {
		rig.Errorf("once: %d handles were loaded, want %d", n, want.reloaded)
	}
	if n := is.Failures - was.Failures; n != want.failures {
		rig.Errorf("once: %d failures, want %d", n, want.failures)
	}
	if lowered := is.Permits < was.Permits; lowered != want.lowered {
		rig.Errorf("once: %d operations may run at once after %d, want fewer: %t", is.Permits, was.Permits, want.lowered)
	}
	if n := rig.log.count("cannot be used on this member"); (n == 1) != want.alarm || n > 1 {
		rig.Errorf("once: %d alarms, want one: %t", n, want.alarm)
	}
	if is.Epoch != epoch || is.State != pool.Active || is.Breaker != "closed" {
		rig.Errorf("once: a is %s in epoch %d with its breaker %s (%s)", is.State, is.Epoch, is.Breaker, is.Reason)
	}
}

func (r row) always(rig *rig) {
	rig.Helper()
	rig.dismiss()
	opens := rig.opens.Load()
	rig.force(faulthsm.Rule{ID: "always", On: []string{r.on}, Do: []faulthsm.Effect{faulthsm.Return(r.code)}})
	ask := r.ask
	if r.on == "C_UnwrapKey" {
		ask = "decrypt" // not loaded yet
	}
	want := r.want
	ejected, reopened := false, false
	for n := 0; n < 12 && !ejected && !reopened; n++ {
		_, err := rig.do(ask)
		ejected = rig.stat("a").Breaker != "closed"
		reopened = rig.opens.Load() > opens || rig.stat("a").State == pool.Joining
		switch {
		case ejected || reopened, (want.ejected || want.reopens) && errors.Is(err, pool.ErrUnavailable):
		case err == nil:
			rig.Errorf("always, operation %d: a right answer", n)
		case want.err != nil && !errors.Is(err, want.err), want.fault != 0 && hsm.FaultOf(err) != want.fault:
			rig.Errorf("always, operation %d: %v (%s)", n, err, hsm.FaultOf(err))
		}
	}
	if want.reopens {
		rig.until("a's token is opened anew", func() bool { return rig.opens.Load() > opens })
		reopened = true
	}
	if ejected != want.ejected || !reopened && want.reopens || reopened && !want.reopens {
		rig.Errorf("always: ejected %t, opened anew %t; want %t and %t: %+v", ejected, reopened, want.ejected, want.reopens, rig.stat("a"))
	}
	if s := rig.stat("a"); s.State == pool.Latched || rig.latches.Load() != 0 {
		rig.Errorf("always: a is %s", s.State)
	}
}
