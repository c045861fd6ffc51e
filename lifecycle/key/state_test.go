package key

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// table is figure 3 of SP 800-57 part 1 rev. 5 once more, written as a person reads it: a row for each state, a column for
// each event; "-" is a move the standard does not know.
const table = `
                       activate  suspend    resume  deactivate   compromise             destroy
pre-active             active    -          -       -            compromised            destroyed
active                 -         suspended  -       deactivated  compromised            -
suspended              -         -          active  deactivated  compromised            -
deactivated            -         -          -       -            compromised            destroyed
compromised            -         -          -       -            -                      destroyed-compromised
destroyed              -         -          -       -            destroyed-compromised  -
destroyed-compromised  -         -          -       -            -                      -
`

func TestEveryStateAndEvent(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(table), "\n")
	events := strings.Fields(lines[0])
	if len(events) != len(eventNames) || len(lines)-1 != len(stateNames) {
		t.Fatalf("the table has %d events and %d states, the package %d and %d", len(events), len(lines)-1, len(eventNames), len(stateNames))
	}
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		from, err := ParseState(cells[0])
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range cells[1:] {
			got, err := Next(from, eventOf(t, events[i]))
			if want == "-" {
				if !errors.Is(err, ErrTransition) || got != 0 {
					t.Errorf("%s of %s: %v, %v; want an ErrTransition", events[i], from, got, err)
				} else if !strings.Contains(err.Error(), events[i]) || !strings.Contains(err.Error(), from.String()) {
					t.Errorf("%s of %s: the error names neither or only one: %v", events[i], from, err)
				}
				continue
			}
			if err != nil || got.String() != want {
				t.Errorf("%s of %s: %v, %v; want %s", events[i], from, got, err, want)
			}
		}
	}
}

func eventOf(t *testing.T, name string) Event {
	t.Helper()
	for e, n := range eventNames {
		if n == name {
			return e
		}
	}
	t.Fatalf("no event %q", name)
	return 0
}

func TestUnknownStatesAndEventsGoNowhere(t *testing.T) {
	for _, s := range []State{0, DestroyedCompromised + 1, 255} {
		if _, err := Next(s, Activate); !errors.Is(err, ErrTransition) {
			t.Errorf("state %d: %v", s, err)
		}
		if err := (&Version{State: s, Usages: Sign}).Permits(Sign, time.Now()); !errors.Is(err, ErrState) {
			t.Errorf("a version in state %d: %v, want ErrState", s, err)
		}
	}
	for _, e := range []Event{0, Destroy + 1} {
		if _, err := Next(Active, e); !errors.Is(err, ErrTransition) {
			t.Errorf("event %d: %v", e, err)
		}
	}
	var s State
	if err := s.UnmarshalText([]byte("retired")); err == nil {
		t.Error("an unknown state was read")
	}
}

// Whatever happens to a version, some things are for ever.
func TestNoWalkUndoesAnEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := PreActive
		var compromised, destroyed, deactivated, activated bool
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			e := Event(rapid.IntRange(int(Activate), int(Destroy)).Draw(t, "event"))
			next, err := Next(s, e)
			if err != nil {
				continue
			}
			s = next
			compromised = compromised || e == Compromise
			destroyed = destroyed || e == Destroy
			deactivated = deactivated || e == Deactivate
			activated = activated || e == Activate
			v := Version{State: s, Usages: Originator | Recipient}
			protects, opens := v.Permits(Sign, time.Now()), v.Permits(Verify, time.Now())
			if (compromised || destroyed || deactivated || !activated) && protects == nil {
				t.Fatalf("%s protects after compromise=%v destroy=%v deactivate=%v activate=%v", s, compromised, destroyed, deactivated, activated)
			}
			if destroyed && !errors.Is(opens, ErrGone) {
				t.Fatalf("%s after destruction: %v, want ErrGone", s, opens)
			}
			if destroyed && compromised && s != DestroyedCompromised {
				t.Fatalf("destroyed and compromised, and it is %s", s)
			}
		}
	})
}

func TestPermitsLooksAtStateAndDates(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2030, 1, d, 0, 0, 0, 0, time.UTC) }
	dated := Version{Name: "k", Number: 1, State: Active, Usages: Sign | Verify, NotBefore: day(10), OriginatorEnd: day(20), RecipientEnd: day(30)}
	f := func(s State, u Usage, now time.Time, want error) {
		t.Helper()
		v := dated
		v.State = s
		if err := v.Permits(u, now); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s for %s on %s: %v, want %v", s, u, now.Format(time.DateOnly), err, want)
		}
	}
	f(Active, Sign, day(9), ErrState)
	f(Active, Verify, day(9), ErrState)
	f(Active, Sign, day(10), nil)
	f(Active, Sign, day(20).Add(-1), nil)
	f(Active, Sign, day(20), ErrState)
	f(Active, Verify, day(20), nil)
	f(Active, Verify, day(30).Add(-1), nil)
	f(Active, Verify, day(30), ErrState)
	f(Active, Sign|Verify, day(25), ErrState)
	f(Active, Wrap, day(15), ErrUsage)
	f(Suspended, Verify, day(15), ErrState)
	f(PreActive, Verify, day(15), ErrState)
	f(Deactivated, Sign, day(15), ErrState)
	f(Deactivated, Verify, day(15), nil)
	f(Deactivated, Verify, day(31), ErrState)
	f(Compromised, Sign, day(15), ErrState)
	f(Compromised, Verify, day(15), nil)
	f(Destroyed, Verify, day(15), ErrGone)
	f(DestroyedCompromised, Sign, day(15), ErrGone)
	f(Destroyed, Wrap, day(15), ErrUsage)
}

func TestNamesAndHashes(t *testing.T) {
	f := func(check func(string) error, s string, ok bool) {
		t.Helper()
		if err := check(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"a", "0", "a-b", "demo.key_1", strings.Repeat("a", 128)} {
		f(CheckName, s, true)
	}
	for _, s := range []string{"", "A", "-a", "a-", ".", "a/b", "a:1", "a b", "a\n", "ä", "../a", strings.Repeat("a", 129)} {
		f(CheckName, s, false)
	}
	h := HashToken("kw_x")
	f(CheckHash, h, true)
	for _, s := range []string{"", h[1:], h + "0", strings.ToUpper(h), strings.Repeat("g", 64), h + "\n"} {
		f(CheckHash, s, false)
	}
}

func TestIDsAndUsagesComeBack(t *testing.T) {
	id := NewID()
	var back ID
	if err := back.UnmarshalText([]byte(id.String())); err != nil || back != id {
		t.Errorf("%s came back as %s, %v", id, back, err)
	}
	for _, s := range []string{"", id.String()[1:], id.String() + "00", strings.Repeat("z", 32)} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("%q was read as an ID", s)
		}
	}
	all := Originator | Recipient
	if u, err := ParseUsages(all.Names()); err != nil || u != all {
		t.Errorf("%s came back as %s, %v", all, u, err)
	}
	if _, err := ParseUsages([]string{"sign", "signn"}); err == nil || !strings.Contains(err.Error(), "signn") || !strings.Contains(err.Error(), "mac-verify") {
		t.Errorf("an unknown usage: %v", err)
	}
	for _, a := range Algorithms() {
		if extra := a.Default &^ a.Allowed; extra != 0 {
			t.Errorf("%s: the default %s is not allowed", a.Algorithm, extra)
		}
	}
}
