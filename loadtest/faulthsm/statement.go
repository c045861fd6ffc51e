package faulthsm

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"keyway/hsm"
)

// Statement is one line of the control language: a [Rule], [Sessions], [Objects], [Opens], [PINTries], [Clock], [Token],
// [Device], [Seed] or [Text].
type Statement interface {
	// String is the statement in the control language, in one line without its end.
	String() string
}

// Text is a statement somebody wrote.
type Text string

// String returns the text.
func (t Text) String() string { return string(t) }

// Rule does Do to the calls that fit. The zero value of every condition is no condition.
type Rule struct {
	// ID names the rule: up to 32 of a-z, 0-9, '-', '_' and '.'.
	ID string
	// On are functions ("C_Sign") or "any", "session" (all that take one), "crypto" (all that compute).
	On []string
	// Nth is the one call it acts on; Every lets it act on each n-th only, Skip leaves the first alone, and it
	// acts Times times at most. All count the calls that fit.
	Nth, Every, Skip, Times int
	// Probability is above 0 and at most 1. The choice for the n-th fitting call is the same for the same [Seed].
	Probability float64
	// From is how long after it came into force it begins, Lasts how long it acts from then on.
	From, Lasts time.Duration
	// Session, Key and Slot are handles and numbers as the caller sees them.
	Session, Key, Slot *uint64
	// Mechanism is that of the call or of the operation it belongs to; nil for any.
	Mechanism *hsm.MechanismType
	// Do happens in this order.
	Do []Effect
}

// String returns the rule in the control language.
func (r Rule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rule %s on %s", r.ID, strings.Join(r.On, ","))
	for _, c := range []struct {
		word string
		n    int
	}{{"nth", r.Nth}, {"every", r.Every}, {"skip", r.Skip}, {"times", r.Times}} {
		if c.n != 0 {
			fmt.Fprintf(&b, " %s %d", c.word, c.n)
		}
	}
	if r.Probability != 0 {
		b.WriteString(" probability " + decimal(r.Probability))
	}
	if r.From != 0 {
		b.WriteString(" from " + span(r.From))
	}
	if r.Lasts != 0 {
		b.WriteString(" lasts " + span(r.Lasts))
	}
	for _, c := range []struct {
		word string
		n    *uint64
	}{{"session", r.Session}, {"key", r.Key}, {"slot", r.Slot}} {
		if c.n != nil {
			fmt.Fprintf(&b, " %s 0x%X", c.word, *c.n)
		}
	}
	if r.Mechanism != nil {
		fmt.Fprintf(&b, " mechanism 0x%X", uint32(*r.Mechanism))
	}
	word := " do "
	for _, e := range r.Do {
		b.WriteString(word + string(e))
		word = " then "
	}
	return b.String()
}

func withCode(s string, c hsm.Code) string {
	if c == hsm.OK {
		return s
	}
	return s + " code " + number(c)
}

// Sessions limits how many sessions may be open, in all processes that share the state file. Code is
// SESSION_COUNT if 0. Sessions of a process that died count for Linger more.
type Sessions struct {
	Max    int
	Linger time.Duration
	Code   hsm.Code
}

// String returns the statement in the control language.
func (l Sessions) String() string {
	s := "limit sessions " + strconv.Itoa(l.Max)
	if l.Linger != 0 {
		s += " linger " + span(l.Linger)
	}
	return withCode(s, l.Code)
}

// Objects limits how many session objects a process may have. Code is DEVICE_MEMORY if 0.
type Objects struct {
	Max  int
	Code hsm.Code
}

// String returns the statement in the control language.
func (l Objects) String() string { return withCode("limit objects "+strconv.Itoa(l.Max), l.Code) }

// Opens limits how many sessions (1 to 64) a process may open within a time. Code is SESSION_COUNT if 0.
type Opens struct {
	Max  int
	Per  time.Duration
	Code hsm.Code
}

// String returns the statement in the control language.
func (l Opens) String() string {
	return withCode("limit opens "+strconv.Itoa(l.Max)+" per "+span(l.Per), l.Code)
}

// PINTries counts wrong user PINs, which SoftHSM never does, and locks the PIN after that many.
type PINTries int

// String returns the statement in the control language.
func (n PINTries) String() string { return "pin tries " + strconv.Itoa(int(n)) }

// Clock lets the token say that it has a clock that is ahead of this machine's by Ahead, in whole seconds and behind it where
// that is below 0, or that it has none.
type Clock struct {
	Ahead  time.Duration // not 0 unless Absent
	Absent bool
}

// String returns the statement in the control language.
func (c Clock) String() string {
	switch {
	case c.Absent:
		return "clock absent"
	case c.Ahead < 0:
		return "clock behind " + span(-c.Ahead)
	}
	return "clock ahead " + span(c.Ahead)
}

// Token says whether the token is there. While it is absent calls in a session answer with Code, DEVICE_REMOVED
// if 0, and its sessions are dead when it is back.
type Token struct {
	Absent bool
	Code   hsm.Code
}

// String returns the statement in the control language.
func (t Token) String() string {
	if !t.Absent {
		return "token present"
	}
	return withCode("token absent", t.Code)
}

// Device gives the token the service times, parallelism and limits of a named device. Scale multiplies the times; 0 is 1.
type Device struct {
	Name  string
	Scale float64
}

// String returns the statement in the control language.
func (d Device) String() string {
	if d.Scale == 0 {
		return "device " + d.Name
	}
	return "device " + d.Name + " scale " + decimal(d.Scale)
}

// Seed is what all choices by chance follow from.
type Seed uint64

// String returns the statement in the control language.
func (s Seed) String() string { return "seed " + strconv.FormatUint(uint64(s), 10) }

// join makes a control file of statements.
func join(statements []Statement) string {
	var b strings.Builder
	for _, s := range statements {
		b.WriteString(s.String())
		b.WriteByte('\n')
	}
	return b.String()
}
