package audit

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"keyway/lifecycle/key"
)

// Replay derives the state from entries alone: which keys, versions, KEKs, members, clients, grants, persons and plans there are and
// how they are. It says of every entry what the rules of the house do not allow, and goes on as if it had been
// allowed, so that one wrong entry is one finding. It is not safe for concurrent use.
type Replay struct {
	// MinApprovals is how many approvals a plan needs, whatever the plan itself says.
	MinApprovals Number

	origin   Origin
	next     Number // the entry that comes next
	adopting bool   // entry 0 has just been seen
	keys     map[Name]*keyState
	ids      map[key.ID]struct{} // of keys and versions, which are never used twice
	keks     map[Name]*Details
	kekIDs   map[Name]key.ID
	members  map[Name]*Details
	clients  map[Name]*Details
	grants   map[Number]*Details
	given    Number // the highest number of a grant so far
	persons  map[Name]*Details
	plans    map[key.ID]*Details
	problems []Problem
}

// Problem is something a log says that cannot be or must not be.
type Problem struct {
	Check Check
	Entry int64 // its sequence number; -1 when it is about no single entry
	What  string
}

// NewReplay returns a Replay at the beginning of a log.
func NewReplay() *Replay {
	return &Replay{
		keys: map[Name]*keyState{}, ids: map[key.ID]struct{}{}, keks: map[Name]*Details{}, kekIDs: map[Name]key.ID{}, members: map[Name]*Details{},
		clients: map[Name]*Details{}, grants: map[Number]*Details{}, persons: map[Name]*Details{}, plans: map[key.ID]*Details{},
	}
}

// Origin returns the origin that entry 0 names, "" before it.
func (r *Replay) Origin() Origin { return r.origin }

// Begin takes over the state before entry seq, in the order of [CompareObjects]. It returns an error for a fact that cannot be.
func (r *Replay) Begin(seq Number, facts iter.Seq[*Fact]) error {
	r.next = seq
	r.adopting = seq > 0 // a part may begin where objects are still taken over
	for f := range facts {
		if err := r.adopt(f); err != nil {
			return err
		}
	}
	return nil
}

// Apply takes one more entry and returns what is wrong with it. The result is valid until the next call.
func (r *Replay) Apply(e *Entry) []Problem {
	r.problems = r.problems[:0]
	bad := func(c Check, format string, a ...any) {
		r.problems = append(r.problems, Problem{c, int64(e.Seq), fmt.Sprintf(format, a...)})
	}
	if e.Seq != r.next {
		bad(CheckSequence, "entry %d stands where entry %d should be", e.Seq, r.next)
	}
	r.next = e.Seq + 1
	if (e.Action == LogBegun) != (e.Seq == 0) {
		bad(CheckSequence, "a log begins with log-begun and has it nowhere else; entry %d is %s", e.Seq, e.Action)
	}
	if e.Action == Adopted && !r.adopting {
		bad(CheckSequence, "%s was taken over as it was after the log had begun to be written", e.Object)
	}
	r.adopting = e.Action == LogBegun || e.Action == Adopted && r.adopting
	if e.Action == LogBegun {
		r.origin = e.Details.Origin
	}
	if p := r.persons[Name(e.Actor.Name)]; p != nil && bool(p.Disabled) && e.Outcome == Done {
		bad(CheckDisabled, "%s acted after being disabled", e.Actor.Name)
	}
	if e.Outcome == Done {
		r.underPlan(e, bad)
		r.do(e, bad)
	}
	return r.problems
}

type badFunc func(c Check, format string, a ...any)

// do carries out what an entry says was done.
func (r *Replay) do(e *Entry, bad badFunc) {
	switch e.Action {
	case Adopted:
		if err := r.adopt(&Fact{e.Object, e.Details}); err != nil {
			bad(CheckDuplicate, "%v", err)
		}
	case KeyCreated, VersionInserted, VersionGenerated, StateChanged, MaterialErased, PeriodsSet, PrimarySet:
		r.doKey(e, bad)
	case PlanMade, PlanApproved, PlanRejected, PlanExecuted, PlanExpired:
		r.doPlan(e, bad)
	case KEKMade, KEKInstalled, KEKForgotten:
		r.doKEK(e, bad)
	case MemberAdded, MemberChanged, MemberDrained, MemberResumed, MemberRemoved, MemberLatched, LatchCleared:
		r.doMember(e, bad)
	case ClientCreated, ClientChanged, ClientDeleted, TokenIssued, GrantGiven, GrantWithdrawn:
		r.doClient(e, bad)
	case PersonCreated, PersonChanged, PersonDisabled, PersonEnabled, RoleGiven, RoleWithdrawn:
		r.doPerson(e, bad)
	case LogBegun, JobFinished, LoginRefused, CheckpointSigned, ExportMade, LogRead, BackupMade, BackupRestored, ConfigChanged, NodeStarted, NodeStopped, LeaseTaken:
		// They change nothing of the state.
	}
}

// adopt takes an object over as the fact says it is.
func (r *Replay) adopt(f *Fact) error {
	o, d := f.Object, f.Details
	exists := false
	switch o.Kind {
	case KindKey:
		_, exists = r.keys[o.Name]
		if !exists {
			r.keys[o.Name] = &keyState{id: o.ID, algorithm: d.Algorithm, usages: d.Usages, pool: d.Pool, primary: d.Primary}
			exists = !r.newID(o.ID)
		}
	case KindVersion:
		k := r.keys[o.Name]
		if k == nil {
			return fmt.Errorf("%s comes before its key", o)
		}
		exists = k.version(o.Number) != nil || !r.newID(o.ID)
		if !exists {
			k.versions = append(k.versions, versionState{
				number: o.Number, id: o.ID, state: d.State, generated: bool(d.Generated), erased: bool(d.Erased), kcv: d.KCV, public: d.Public,
				notBefore: d.NotBefore, originatorEnd: d.OriginatorEnd, recipientEnd: d.RecipientEnd,
			})
		}
	case KindKEK:
		exists = !insert(r.keks, o.Name, d)
		r.kekIDs[o.Name] = o.ID
	case KindMember:
		exists = !insert(r.members, o.Name, d)
	case KindClient:
		exists = !insert(r.clients, o.Name, d)
	case KindGrant:
		exists = !insert(r.grants, o.Number, d)
		r.given = max(r.given, o.Number)
	case KindPerson:
		d.Roles = slices.Sorted(slices.Values(d.Roles))
		exists = !insert(r.persons, o.Name, d)
	case KindPlan:
		exists = !insert(r.plans, o.ID, d)
	default:
		return fmt.Errorf("a %s has no state", o.Kind)
	}
	if exists {
		return fmt.Errorf("%s is there twice", o)
	}
	return nil
}

// insert adds a new object and reports whether it was new.
func insert[K comparable](m map[K]*Details, k K, d Details) bool {
	if _, ok := m[k]; ok {
		return false
	}
	m[k] = &d
	return true
}

// newID remembers an ID and reports whether it was new.
func (r *Replay) newID(id key.ID) bool {
	_, old := r.ids[id]
	r.ids[id] = struct{}{}
	return !old
}

// Finish returns what is wrong with the state as a whole: what the entries of one transaction must leave in order. It is to
// be called after the last entry.
func (r *Replay) Finish() []Problem {
	r.problems = r.problems[:0]
	for _, name := range sortedKeys(r.keys) {
		r.problems = append(r.problems, r.keys[name].finish(name)...)
	}
	return r.problems
}

// CompareObjects orders objects as snapshots of the state have them: by kind, name, number and ID.
func CompareObjects(a, b Object) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(string(a.Name), string(b.Name)),
		cmp.Compare(a.Number, b.Number), slices.Compare(a.ID[:], b.ID[:]))
}

// Facts yields the state in the order of [CompareObjects].
func (r *Replay) Facts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for _, some := range []iter.Seq[*Fact]{
			named(KindClient, r.clients), r.grantFacts(), r.kekFacts(), r.keyFacts(), named(KindMember, r.members),
			named(KindPerson, r.persons), r.planFacts(), r.versionFacts(),
		} {
			for f := range some {
				if !yield(f) {
					return
				}
			}
		}
	}
}

func named(kind ObjectKind, m map[Name]*Details) iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for _, n := range sortedKeys(m) {
			if !yield(&Fact{Object{Kind: kind, Name: n}, *m[n]}) {
				return
			}
		}
	}
}
