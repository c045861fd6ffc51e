package lifecycle

import "fmt"

// Cause is why a token does not fit a pool, in a word that stays the same.
type Cause string

// The causes.
const (
	CauseMissing    Cause = "token_missing" // the library, or the token in it, is not there
	CausePINFile    Cause = "pin_file"      // the PIN file cannot be used
	CausePIN        Cause = "pin_refused"   // the token refused the PIN
	CausePINKnown   Cause = "pin_known_bad" // the token refused this PIN before; it was not tried
	CausePINLocked  Cause = "pin_locked"    // the token says that its PIN is locked, or may be soon; it was not tried
	CauseTaken      Cause = "token_taken"   // the token is a member already, under another name or in another pool
	CauseOtherKEK   Cause = "other_kek"     // the token holds the KEK of another pool, or of custody
	CauseKEKDiffers Cause = "kek_differs"   // the token holds something else in the place of a KEK
	CauseNoRoot     Cause = "root_missing"  // the token has no Root KEK, and cannot be given one
	CauseMechanisms Cause = "mechanisms"    // the token lacks mechanisms
	CauseClock      Cause = "clock"         // the token's clock is wrong
	CauseTime       Cause = "no_answer"     // the trial took too long
	CauseFailed     Cause = "token_failed"  // the token failed in another way
)

// Misfit is why a token was not taken as a member. When it is returned nothing was changed: not the store, the pool or the token.
type Misfit struct {
	Cause  Cause
	Member string
	What   string // is wrong
	Do     string // to put it right, for people
	Err    error  // what the token said, where it said something
}

// Error tells all of it.
func (m *Misfit) Error() string {
	s := "member " + m.Member + " is not added: " + m.What
	if m.Err != nil {
		s += ": " + m.Err.Error()
	}
	if m.Do != "" {
		s += "; " + m.Do
	}
	return s
}

// Unwrap returns what the token said.
func (m *Misfit) Unwrap() error { return m.Err }

// misfit makes one whose member is filled in later.
func misfit(c Cause, todo, format string, a ...any) *Misfit {
	return &Misfit{Cause: c, What: fmt.Sprintf(format, a...), Do: todo}
}

// because adds what the token said.
func (m *Misfit) because(err error) *Misfit {
	m.Err = err
	return m
}
