package key

import "time"

// Periods are the lengths of a version's cryptoperiods and when it is to be replaced within them. Zero is no bound.
type Periods struct {
	// Originator is the length of the originator-usage period, Recipient how long after it the version still processes.
	Originator time.Duration `json:"originator,omitzero"`
	Recipient  time.Duration `json:"recipient,omitzero"`
	// RotateAge, RotateUses and RotateAt each make a rotation due; the first one reached counts.
	RotateAge  time.Duration `json:"rotate_age,omitzero"`
	RotateUses uint64        `json:"rotate_uses,omitzero"`
	RotateAt   time.Time     `json:"rotate_at,omitzero"`
	// Overlap is how long the old version goes on protecting beside the new one, so that every target can follow. A
	// rotation is due that long before the end of the originator-usage period at the latest.
	Overlap time.Duration `json:"overlap,omitzero"`
	// Notice is how long before something is due it is announced.
	Notice time.Duration `json:"notice,omitzero"`
}

// DefaultPeriods returns what the table of kinds suggests for a key with these usages. A key of several kinds gets the
// shortest originator-usage period of them, and opens what it protected for as long as the most patient of them.
func DefaultPeriods(a Algorithm, u Usage) Periods {
	p := Periods{Overlap: 7 * 24 * time.Hour, Notice: 30 * 24 * time.Hour}
	for i, k := range KindsOf(a, u) {
		r, err := k.Info()
		if err != nil {
			continue
		}
		if i == 0 || r.Originator < p.Originator {
			p.Originator = r.Originator
		}
		switch {
		case r.Recipient == forever || i > 0 && p.Recipient == 0:
			p.Recipient = 0
		default:
			p.Recipient = max(p.Recipient, r.Recipient)
		}
	}
	return p
}

// Ends returns the two ends of a version that becomes active at from; a zero time is no bound. There is no recipient
// end without an originator end, because the one is counted from the other.
func (p *Periods) Ends(from time.Time) (originator, recipient time.Time) {
	if p.Originator <= 0 {
		return time.Time{}, time.Time{}
	}
	originator = from.Add(p.Originator)
	if p.Recipient > 0 {
		recipient = originator.Add(p.Recipient)
	}
	return originator, recipient
}

// Duty is what is to be done about a version.
type Duty uint8

// The duties, in the order of a version's life.
const (
	DutyNone       Duty = iota + 1
	DutyNotice          // a rotation comes up
	DutyRotate          // make a new version
	DutyOverdue         // the primary version protects nothing any more, or is past its date: rotate now
	DutyDeactivate      // the overlap, or the originator-usage period, is over
	DutyErase           // the private half is to be destroyed; the public half goes on
	DutyDestroy         // nothing is to be processed with it any more
)

var dutyNames = map[Duty]string{
	DutyNone: "none", DutyNotice: "notice", DutyRotate: "rotate", DutyOverdue: "overdue",
	DutyDeactivate: "deactivate", DutyErase: "erase", DutyDestroy: "destroy",
}

// String returns the duty's word, "" for a value that is none.
func (d Duty) String() string { return dutyNames[d] }

// Facts are what [Due] looks at besides the clock.
type Facts struct {
	Version *Version
	Primary bool
	// Uses is how often the version protected something.
	Uses uint64
	// Superseded is when another version became primary; zero if none did.
	Superseded time.Time
}

// Due returns what is to be done about a version at the time now and since when that is so; for [DutyNone] and
// [DutyNotice], when the next thing comes up, and the zero time when nothing ever does. It is pure; take now from a [Clock].
func Due(f *Facts, p *Periods, now time.Time) (Duty, time.Time) {
	v := f.Version
	if v.State != Active && v.State != Deactivated && v.State != Compromised {
		return DutyNone, time.Time{} // it waits for a person, or for nothing
	}
	if past(v.RecipientEnd, now) {
		return DutyDestroy, v.RecipientEnd
	}
	if v.State == Compromised {
		return DutyNone, v.RecipientEnd
	}
	if f.Primary && v.State == Active {
		return dueRotation(f, p, now)
	}
	if v.State == Active {
		end := v.OriginatorEnd
		if !f.Superseded.IsZero() {
			end = earliest(end, f.Superseded.Add(p.Overlap))
		}
		if past(end, now) {
			return DutyDeactivate, end
		}
		return DutyNone, earliest(end, v.RecipientEnd)
	}
	if v.EraseDue(now) {
		since := earliest(v.OriginatorEnd, f.Superseded)
		if since.IsZero() || since.After(now) {
			since = now // deactivated by an order, whose time is not among the facts
		}
		return DutyErase, since
	}
	return DutyNone, v.RecipientEnd
}

// dueRotation is Due for an active primary version.
func dueRotation(f *Facts, p *Periods, now time.Time) (Duty, time.Time) {
	v := f.Version
	if past(v.OriginatorEnd, now) {
		return DutyOverdue, v.OriginatorEnd
	}
	from := v.Created
	if v.NotBefore.After(from) {
		from = v.NotBefore
	}
	at := p.RotateAt
	if !at.After(from) {
		at = time.Time{} // the version was made for, or after, that date
	}
	if p.RotateAge > 0 {
		at = earliest(at, from.Add(p.RotateAge))
	}
	if !v.OriginatorEnd.IsZero() {
		at = earliest(at, v.OriginatorEnd.Add(-p.Overlap))
	}
	if past(at, now) {
		return DutyRotate, at
	}
	if p.RotateUses > 0 && f.Uses >= p.RotateUses {
		return DutyRotate, now
	}
	if past(notice(at, p.Notice), now) {
		return DutyNotice, at
	}
	// Nine tenths of the uses are the notice of the last tenth: how fast the rest goes is not known.
	if p.RotateUses > 0 && f.Uses >= p.RotateUses-p.RotateUses/10 {
		return DutyNotice, now
	}
	return DutyNone, notice(at, p.Notice)
}

// notice returns the time d before at, and no time for no time.
func notice(at time.Time, d time.Duration) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(-d)
}

// earliest returns the earlier of the times that are set.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
