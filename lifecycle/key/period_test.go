package key

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const day = 24 * time.Hour

func TestDefaultPeriodsByUsage(t *testing.T) {
	f := func(a Algorithm, u Usage, originator, recipient time.Duration) {
		t.Helper()
		p := DefaultPeriods(a, u)
		if p.Originator != originator || p.Recipient != recipient {
			t.Errorf("%s for %s: %s and %s, want %s and %s", a, u, p.Originator, p.Recipient, originator, recipient)
		}
	}
	f(ECP256, Sign|Verify, 2*year, 0)
	f(AES256, Encrypt|Decrypt|Wrap|Unwrap, 2*year, 3*year)
	f(HMACSHA256, MAC|VerifyMAC, 2*year, 3*year)
	f(RSA3072, Decrypt|Encrypt, 1*year, 3*year)
	f(RSA3072, Sign|Verify|Encrypt|Decrypt, 1*year, 0) // the shorter, and for ever because what it signed verifies for ever
	f("none", Sign, 0, 0)
	for _, a := range Algorithms() {
		p := DefaultPeriods(a.Algorithm, a.Default)
		o, r := p.Ends(noon)
		if !o.Equal(noon.Add(p.Originator)) || (p.Recipient == 0) != r.IsZero() || !r.IsZero() && !r.Equal(o.Add(p.Recipient)) {
			t.Errorf("%s: ends at %s and %s", a.Algorithm, o, r)
		}
	}
	if o, r := (&Periods{Recipient: day}).Ends(noon); !o.IsZero() || !r.IsZero() {
		t.Errorf("without an originator period: %s, %s", o, r)
	}
}

func TestDueTellsWhatAndWhen(t *testing.T) {
	at := func(d int) time.Time { return noon.Add(time.Duration(d) * day) }
	primary := Facts{Version: &Version{State: Active, Algorithm: AES256, Usages: Encrypt | Decrypt, Created: noon}, Primary: true}
	f := func(fs Facts, p Periods, now time.Time, want Duty, when time.Time) {
		t.Helper()
		if got, since := Due(&fs, &p, now); got != want || !since.Equal(when) {
			t.Errorf("%+v of %s: %s at %s, want %s at %s", p, now, got, since, want, when)
		}
	}
	none := time.Time{}
	f(primary, Periods{}, at(10000), DutyNone, none)
	age := Periods{RotateAge: 30 * day, Notice: 5 * day}
	f(primary, age, at(24), DutyNone, at(25))
	f(primary, age, at(25), DutyNotice, at(30))
	f(primary, age, at(30).Add(-1), DutyNotice, at(30))
	f(primary, age, at(31), DutyRotate, at(30))
	age.RotateAt = at(20)
	f(primary, age, at(20), DutyRotate, at(20))
	age.RotateAt = at(0) // the date that made this version
	f(primary, age, at(20), DutyNone, at(25))
	uses := Periods{RotateUses: 100}
	for n, want := range map[uint64]Duty{0: DutyNone, 89: DutyNone, 90: DutyNotice, 99: DutyNotice, 100: DutyRotate, 101: DutyRotate} {
		fs, when := primary, at(1)
		fs.Uses = n
		if want == DutyNone {
			when = none
		}
		f(fs, uses, at(1), want, when)
	}
	with := func(s State, change func(*Facts)) Facts {
		fs, v := primary, *primary.Version
		v.State = s
		fs.Version = &v
		change(&fs)
		return fs
	}
	ending := with(Active, func(f *Facts) { f.Version.OriginatorEnd, f.Version.RecipientEnd = at(40), at(90) })
	overlap := Periods{Overlap: 7 * day, Notice: 3 * day}
	f(ending, overlap, at(29), DutyNone, at(30))
	f(ending, overlap, at(30), DutyNotice, at(33))
	f(ending, overlap, at(33), DutyRotate, at(33))
	f(ending, overlap, at(40), DutyOverdue, at(40))
	f(ending, overlap, at(90), DutyDestroy, at(90))
	later := with(Active, func(f *Facts) { f.Version.NotBefore = at(100) })
	f(later, Periods{RotateAge: 30 * day}, at(129), DutyNone, at(130))
	old := with(Active, func(f *Facts) { f.Primary, f.Superseded, f.Version.RecipientEnd = false, at(3), at(90) })
	f(old, overlap, at(9), DutyNone, at(10))
	f(old, overlap, at(10), DutyDeactivate, at(10))
	off := with(Deactivated, func(f *Facts) { f.Primary, f.Version.RecipientEnd = false, at(90) })
	f(off, overlap, at(50), DutyNone, at(90))
	f(off, overlap, at(91), DutyDestroy, at(90))
	pair := with(Deactivated, func(f *Facts) {
		f.Primary, f.Superseded = false, at(3)
		f.Version.Algorithm, f.Version.Usages, f.Version.Blob = ECP256, Sign|Verify, []byte{1}
	})
	f(pair, overlap, at(9), DutyErase, at(3))
	pair.Superseded = none
	f(pair, overlap, at(9), DutyErase, at(9))
	bad := with(Compromised, func(f *Facts) { f.Primary, f.Version.RecipientEnd = false, at(90) })
	f(bad, overlap, at(9), DutyNone, at(90))
	f(bad, overlap, at(90), DutyDestroy, at(90))
	for _, s := range []State{PreActive, Suspended, Destroyed, DestroyedCompromised} {
		f(with(s, func(f *Facts) { f.Version.RecipientEnd = at(1) }), age, at(1000), DutyNone, none)
	}
}

// As time goes by a primary version's duty only grows, and what is due fell due in the past; what is not, is to come.
func TestDueGrowsWithTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := func(name string) time.Duration { return time.Duration(rapid.IntRange(0, 60).Draw(t, name)) * day }
		p := Periods{RotateAge: days("age"), Overlap: days("overlap"), Notice: days("notice")}
		v := &Version{State: Active, Algorithm: AES256, Usages: Encrypt, Created: noon, OriginatorEnd: noon.Add(day + days("end"))}
		f := &Facts{Version: v, Primary: true}
		last := DutyNone
		for d := range 130 {
			now := noon.Add(time.Duration(d) * day)
			duty, when := Due(f, &p, now)
			if duty < last {
				t.Fatalf("day %d: %s after %s", d, duty, last)
			}
			last = duty
			if soon := duty == DutyNone || duty == DutyNotice; soon == !when.After(now) {
				t.Fatalf("day %d: %s at %s", d, duty, when)
			}
			if permits := v.Permits(Encrypt, now) == nil; permits == (duty == DutyOverdue) {
				t.Fatalf("day %d: it protects=%v and its duty is %s", d, permits, duty)
			}
		}
		if last != DutyOverdue {
			t.Fatalf("in the end: %s", last)
		}
	})
}
