package key

import (
	"errors"
	"fmt"
)

// State is the state of a key version, after NIST SP 800-57 part 1 rev. 5, section 7.
type State uint8

// The states.
const (
	PreActive State = iota + 1
	Active
	Suspended
	Deactivated
	Compromised
	Destroyed
	DestroyedCompromised
)

var stateNames = map[State]string{
	PreActive: "pre-active", Active: "active", Suspended: "suspended", Deactivated: "deactivated",
	Compromised: "compromised", Destroyed: "destroyed", DestroyedCompromised: "destroyed-compromised",
}

// String returns the standard's word for s.
func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState is the inverse of String.
func ParseState(name string) (State, error) {
	for s, n := range stateNames {
		if n == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown key state %q", name)
}

// MarshalText writes the standard's word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the standard's word.
func (s *State) UnmarshalText(b []byte) error {
	v, err := ParseState(string(b))
	if err == nil {
		*s = v
	}
	return err
}

// Event is what happens to a key version.
type Event uint8

// The events that move a version from one state to another.
const (
	Activate Event = iota + 1
	Suspend
	Resume
	Deactivate
	Compromise
	Destroy
)

var eventNames = map[Event]string{
	Activate: "activate", Suspend: "suspend", Resume: "resume",
	Deactivate: "deactivate", Compromise: "compromise", Destroy: "destroy",
}

// String returns the event's verb.
func (e Event) String() string {
	if n, ok := eventNames[e]; ok {
		return n
	}
	return fmt.Sprintf("event(%d)", uint8(e))
}

// ErrTransition is wrapped by the error of [Next] for a move the standard does not know.
var ErrTransition = errors.New("illegal transition")

// transitions is figure 3 of SP 800-57 part 1 rev. 5 as data, as far as it holds for every type of key: what goes for
// some types only is in [NextOf]. Section by section: 7.1 transitions 2 to 4 (pre-active), 7.2 transitions 6 to 8
// (active; 5, to destroyed, is for some types), 7.3 transitions 10 to 12 (suspended; 9, to destroyed, is for some
// types), 7.4 (deactivated), 7.5 (compromised), 7.6 (a destroyed key can still turn out to have been compromised).
// To destroy a pre-active version is KMIP's Destroy, to declare it compromised its Revoke with that reason; a Revoke for
// another reason is Deactivate, and on a version that is neither active nor suspended an error.
var transitions = map[State]map[Event]State{
	PreActive:   {Activate: Active, Compromise: Compromised, Destroy: Destroyed},
	Active:      {Suspend: Suspended, Deactivate: Deactivated, Compromise: Compromised},
	Suspended:   {Resume: Active, Deactivate: Deactivated, Compromise: Compromised},
	Deactivated: {Compromise: Compromised, Destroy: Destroyed},
	Compromised: {Destroy: DestroyedCompromised},
	Destroyed:   {Compromise: DestroyedCompromised},
}

// Next returns the state that follows s after e, or an error wrapping [ErrTransition].
func Next(s State, e Event) (State, error) {
	if n, ok := transitions[s][e]; ok {
		return n, nil
	}
	return 0, fmt.Errorf("%w: cannot %s a version that is %s", ErrTransition, e, s)
}
