package audit

import "iter"

func (r *Replay) doKEK(e *Entry, bad badFunc) {
	k := r.keks[e.Object.Name]
	if e.Action == KEKMade {
		if k != nil {
			bad(CheckDuplicate, "%s was made a second time", e.Object)
			return
		}
		r.keks[e.Object.Name] = &Details{KCV: e.Details.KCV}
		r.kekIDs[e.Object.Name] = e.Object.ID
		return
	}
	if e.Action == KEKForgotten {
		switch {
		case k == nil:
			bad(CheckUnknown, "%s was forgotten and was never made", e.Object)
		case r.kekIDs[e.Object.Name] != e.Object.ID:
			bad(CheckUnknown, "%s has the ID %s, not %s", e.Object, r.kekIDs[e.Object.Name], e.Object.ID)
		}
		delete(r.keks, e.Object.Name)
		delete(r.kekIDs, e.Object.Name)
		return
	}
	switch {
	case k == nil:
		bad(CheckUnknown, "%s was installed at %s and was never made", e.Object, e.Details.Member)
	case r.kekIDs[e.Object.Name] != e.Object.ID:
		bad(CheckUnknown, "%s has the ID %s, not %s", e.Object, r.kekIDs[e.Object.Name], e.Object.ID)
	case k.KCV != e.Details.KCV:
		bad(CheckKCV, "%s arrived at %s with the check value %s, and it was made with %s", e.Object, e.Details.Member, e.Details.KCV, k.KCV)
	}
}

func (r *Replay) kekFacts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for f := range named(KindKEK, r.keks) {
			f.Object.ID = r.kekIDs[f.Object.Name]
			if !yield(f) {
				return
			}
		}
	}
}

func (r *Replay) doMember(e *Entry, bad badFunc) {
	if e.Action == MemberAdded {
		if !insert(r.members, e.Object.Name, Details{Config: e.Details.Config}) {
			bad(CheckDuplicate, "%s was added a second time", e.Object)
		}
		return
	}
	m := r.members[e.Object.Name]
	if m == nil {
		bad(CheckUnknown, "%s of %s, which is not there", e.Action, e.Object)
		return
	}
	switch e.Action {
	case MemberChanged:
		m.Config = e.Details.Config
	case MemberDrained:
		m.Drained = true
	case MemberResumed:
		m.Drained = false
	case MemberRemoved:
		delete(r.members, e.Object.Name)
	case MemberLatched:
		m.Latched = true
	case LatchCleared:
		m.Latched = false
	}
}
