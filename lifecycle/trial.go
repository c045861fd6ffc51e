package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keyway/hsm"
)

const (
	// trialTime bounds a trial.
	trialTime = 45 * time.Second
	// clockLimit is how far a token's clock may be from this machine's: more than any working time service leaves, and less than
	// what would put certificates, attestations and the token's own audit log in doubt.
	clockLimit = 2 * time.Minute
)

// trial is a token being tried before it is stored as a member.
type trial struct {
	m *Membership
	r MemberRecord
	o AddOptions
	// name is the member's as Root KEKs have it.
	name string
	what facts
	say  func(format string, a ...any) // what was found, for people who wait
}

// facts is what the store says that a token must fit.
type facts struct {
	members []MemberRecord // of every pool
	pools   []KEK
	roots   []KEK
	custody *KEK // nil: there is none
	keys    []KeysInUse
}

func (m *Membership) facts(ctx context.Context) (f facts, err error) {
	err = m.cfg.Store.View(ctx, func(tx Tx) error {
		f = facts{}
		var errs [5]error
		f.members, errs[0] = tx.AllMembers()
		f.pools, errs[1] = tx.KEKs(KEKPool)
		f.roots, errs[2] = tx.KEKs(KEKRoot)
		var custody []KEK
		if custody, errs[3] = tx.KEKs(KEKCustody); len(custody) > 0 {
			f.custody = &custody[0]
		}
		f.keys, errs[4] = tx.KeysInUse(m.cfg.PoolName)
		return errors.Join(errs[:]...)
	})
	return f, err
}

// try opens a member's token as the pool would, with one try of its PIN, and returns a *Misfit unless the token fits. It changes nothing.
func (m *Membership) try(ctx context.Context, r MemberRecord, o AddOptions, say func(string, ...any)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, trialTime, fmt.Errorf("%w: the trial was not over after %s", hsm.ErrHung, trialTime))
	defer cancel()
	what, err := m.facts(ctx)
	if err != nil {
		return err
	}
	t := &trial{m: m, r: r, o: o, name: r.Pool + "/" + r.Name, what: what, say: say}
	err = t.run(ctx)
	var bad *Misfit
	if !errors.As(err, &bad) {
		return err
	}
	if ctx.Err() != nil { // whatever it said, it was cut off
		bad = misfit(CauseTime, "see whether the HSM and its network answer, then add it again", "its token did not answer in time").because(context.Cause(ctx))
	}
	bad.Member = r.Name
	return bad
}

// run looks at everything in turn; what needs no login comes first.
func (t *trial) run(ctx context.Context) error {
	if bad := t.takenByRecord(); bad != nil {
		return bad
	}
	if !t.o.Force {
		if bad := t.m.pins.allows(t.r); bad != nil {
			return bad
		}
	}
	t.say("opening the token, with one try of its PIN")
	begun := time.Now()
	token, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = token.Close() }() // what was tried is judged already
	if p, ok := token.(hsm.Process); ok {
		defer context.AfterFunc(ctx, p.Kill)() // the calls below know no context
	}
	info := token.Info()
	t.say("token %q is open: serial %s, %s %s", info.Label, info.Serial, info.Manufacturer, info.Model)
	if bad := t.takenByInfo(info); bad != nil {
		return bad
	}
	if bad := t.clock(info.Clock, begun, time.Now()); bad != nil {
		return bad
	}
	if bad := t.mechanisms(info); bad != nil {
		return bad
	}
	s, err := token.OpenSession(ctx)
	if err != nil {
		return misfit(CauseFailed, "", "no session could be opened on its token").because(err)
	}
	defer func() { _ = s.Close() }()
	return t.keks(s, info)
}

// open opens the token. The PIN is tried once; whether it was refused is remembered.
func (t *trial) open(ctx context.Context) (hsm.Token, error) {
	if t.o.Force {
		ctx = hsm.Vouched(ctx)
	}
	token, err := t.m.cfg.Open(t.r)(ctx)
	if err == nil {
		t.m.pins.forget(t.r)
		return token, nil
	}
	var code *hsm.Error
	switch {
	case hsm.FaultOf(err) == hsm.Locked && errors.As(err, &code) && code.Code == hsm.PinLocked:
		return nil, misfit(CausePINLocked, "where no more than a wrong try is in the way, add it with --force once the PIN is right", "its PIN was not tried, or is locked").because(err)
	case hsm.FaultOf(err) == hsm.Locked:
		t.m.pins.refused(t.r)
		return nil, misfit(CausePIN, "put the PIN file right and add it again; the same PIN is not tried again unless you say so with --force, "+
			"since a few wrong ones lock a token for good", "its token refused the PIN of %s", t.r.PINFile).because(err)
	case errors.As(err, &code) && (code.Code == hsm.TokenNotPresent || code.Code == hsm.SlotIDInvalid):
		return nil, misfit(CauseMissing, "correct the label or serial number, or see to it that the token is there", "its token was not found").because(err)
	case !t.libraryThere():
		return nil, misfit(CauseMissing, "", "its token was not found").because(err)
	}
	pin, unread := hsm.ReadPIN(t.r.PINFile)
	pin.Wipe()
	if unread != nil {
		return nil, misfit(CausePINFile, "", "its PIN file cannot be used").because(err)
	}
	return nil, misfit(CauseFailed, "", "its token could not be opened").because(err)
}

// libraryThere reports whether there is a file where the record says that the library, or the embedded token, is.
func (t *trial) libraryThere() bool {
	path := t.r.Module
	if t.r.Driver == "soft" {
		path = filepath.Join(t.r.TokenDir, t.r.TokenLabel+".token")
	}
	_, err := os.Stat(path)
	return err == nil
}

// clock refuses a token whose clock, read at some time between begun and ended, is further from ours than the limit.
func (t *trial) clock(shown, begun, ended time.Time) *Misfit {
	if shown.IsZero() {
		return nil
	}
	off := shown.Sub(ended)
	if off <= 0 {
		off = min(shown.Sub(begun), 0) // while it was read neither is wrong
	}
	if off.Abs() > clockLimit {
		way := "ahead of"
		if off < 0 {
			way = "behind"
		}
		return misfit(CauseClock, "set the token's clock, or this machine's, by whichever is wrong: certificates, attestations and the token's audit log depend on it",
			"its token's clock shows %s, %s %s this machine's; %s are allowed", shown.Format(time.RFC3339), off.Abs().Round(time.Second), way, clockLimit)
	}
	t.say("its clock is right")
	return nil
}
