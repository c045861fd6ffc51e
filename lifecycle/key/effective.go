package key

import (
	"fmt"
	"time"
)

// Protects reports whether a version in state s may protect something new.
func (s State) Protects() bool { return s == Active }

// Processes reports whether a version in state s may process what is already protected (SP 800-57 part 1 rev. 5, 7.2 to
// 7.5). A suspended version could by 7.3, at the recipient's risk, for what was protected before; when that was is not
// known of a ciphertext or a signature, and what was protected during the suspension shall not be processed, so nothing is.
func (s State) Processes() bool { return s == Active || s == Deactivated || s == Compromised }

// Gone reports whether s is an end: the material is erased and the tombstone stays.
func (s State) Gone() bool { return s == Destroyed || s == DestroyedCompromised }

// Effective returns the state v is in at the time now: the recorded one, moved by the dates that have passed. It is
// pure: take now from a [Clock], so that a clock set back does not undo a date.
//
//   - An active version before NotBefore is still pre-active: that is how an activation is set for later.
//   - An active version from OriginatorEnd or RecipientEnd on is deactivated.
//   - No date activates a pre-active version, which may have no material or no backup yet: that takes the order.
//   - No date moves a suspended version: that it would process again must be somebody's decision (7.3, transition 12:
//     "the suspension is no longer required").
func (v *Version) Effective(now time.Time) State {
	switch {
	case v.State != Active:
		return v.State
	case past(v.OriginatorEnd, now) || past(v.RecipientEnd, now):
		return Deactivated
	case !v.NotBefore.IsZero() && now.Before(v.NotBefore):
		return PreActive
	}
	return Active
}

// Processes reports whether v processes anything at the time now: its state and its dates both allow it.
func (v *Version) Processes(now time.Time) bool {
	return v.Effective(now).Processes() && !past(v.RecipientEnd, now) && (v.NotBefore.IsZero() || !now.Before(v.NotBefore))
}

// past reports whether the bound end is set and reached.
func past(end, now time.Time) bool { return !end.IsZero() && !now.Before(end) }

// Permits reports whether the version may be used for u at the time now: nil, or an error wrapping [ErrUsage],
// [ErrGone] or [ErrState]. State and dates are both looked at on every call, through [Version.Effective], so a date that
// passes needs no scheduler, and nothing may cache the answer. A usage that both protects and processes needs both.
func (v *Version) Permits(u Usage, now time.Time) error {
	if !v.Usages.Has(u) {
		return fmt.Errorf("%w: %s is for %s, not for %s", ErrUsage, v.Name, v.Usages, u)
	}
	s := v.Effective(now)
	switch {
	case s.Gone():
		return fmt.Errorf("%w: %s", ErrGone, v.Ref())
	case v.State.Processes() && !v.NotBefore.IsZero() && now.Before(v.NotBefore):
		return fmt.Errorf("%w: %s is not active before %s", ErrState, v.Ref(), v.NotBefore.UTC().Format(time.RFC3339))
	case !s.Processes():
		return fmt.Errorf("%w: %s is %s", ErrState, v.Ref(), s)
	case past(v.RecipientEnd, now):
		return fmt.Errorf("%w: %s ended its recipient-usage period at %s", ErrState, v.Ref(), v.RecipientEnd.UTC().Format(time.RFC3339))
	case u&Originator == 0 || s.Protects():
		return nil
	case v.State == Active:
		return fmt.Errorf("%w: %s ended its originator-usage period at %s", ErrState, v.Ref(), v.OriginatorEnd.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("%w: %s is %s and protects nothing new", ErrState, v.Ref(), s)
}
