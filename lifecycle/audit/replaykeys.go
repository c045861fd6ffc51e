package audit

import (
	"fmt"
	"iter"

	"keyway/lifecycle/key"
)

// keyState is a key as the entries have made it.
type keyState struct {
	id        key.ID
	algorithm key.Algorithm
	usages    key.Usage
	pool      Name
	primary   Number
	versions  []versionState // by number
}

type versionState struct {
	number                                 Number
	id                                     key.ID
	state                                  key.State
	generated, erased                      bool
	kcv                                    KCV
	public                                 Hash
	notBefore, originatorEnd, recipientEnd Time
	last                                   Number // the entry that touched it last
}

func (k *keyState) version(n Number) *versionState {
	for i := len(k.versions) - 1; i >= 0; i-- {
		if k.versions[i].number == n {
			return &k.versions[i]
		}
	}
	return nil
}

func (r *Replay) doKey(e *Entry, bad badFunc) {
	d := &e.Details
	k := r.keys[e.Object.Name]
	if e.Action == KeyCreated {
		if k != nil {
			bad(CheckDuplicate, "%s was created a second time", e.Object)
			return
		}
		if !r.newID(e.Object.ID) {
			bad(CheckDuplicate, "%s was created with an ID that was given before", e.Object)
		}
		r.keys[e.Object.Name] = &keyState{id: e.Object.ID, algorithm: d.Algorithm, usages: d.Usages, pool: d.Pool}
		return
	}
	if k == nil {
		bad(CheckUnknown, "%s of %s, a key that was never created", e.Action, e.Object)
		return
	}
	if e.Action == PrimarySet {
		if k.id != e.Object.ID {
			bad(CheckUnknown, "%s has the ID %s, not %s", e.Object, k.id, e.Object.ID)
		}
		if v := k.version(d.Primary); d.Primary != 0 && (v == nil || v.state != key.Active) {
			bad(CheckPrimary, "%s got version %d as its primary one, which is %s", e.Object, d.Primary, v.describe())
		}
		k.primary = d.Primary
		return
	}
	if e.Action == VersionInserted {
		want := Number(1)
		if n := len(k.versions); n > 0 {
			want = k.versions[n-1].number + 1
		}
		if e.Object.Number != want {
			bad(CheckDuplicate, "%s was inserted where version %d follows", e.Object, want)
		}
		if !r.newID(e.Object.ID) {
			bad(CheckDuplicate, "%s was inserted with an ID that was given before", e.Object)
		}
		if k.version(e.Object.Number) == nil {
			k.versions = append(k.versions, versionState{
				number: e.Object.Number, id: e.Object.ID, state: key.PreActive, last: e.Seq,
				notBefore: d.NotBefore, originatorEnd: d.OriginatorEnd, recipientEnd: d.RecipientEnd,
			})
		}
		return
	}
	v := k.version(e.Object.Number)
	if v == nil {
		bad(CheckUnknown, "%s of %s, which was never inserted", e.Action, e.Object)
		return
	}
	if v.id != e.Object.ID {
		bad(CheckUnknown, "%s has the ID %s, not %s", e.Object, v.id, e.Object.ID)
	}
	v.last = e.Seq
	r.doVersion(v, e, bad)
}

func (r *Replay) doVersion(v *versionState, e *Entry, bad badFunc) {
	d := &e.Details
	switch e.Action {
	case VersionGenerated:
		if v.state != key.PreActive || v.generated || v.erased {
			bad(CheckGeneration, "%s was generated when it was %s", e.Object, v.describe())
		}
		v.generated, v.kcv, v.public = true, d.KCV, d.Public
	case StateChanged:
		switch next, err := key.Next(d.From, d.Event); {
		case v.state != d.From:
			bad(CheckTransition, "%s is said to go from %s, and it is %s", e.Object, d.From, v.state)
		case err != nil:
			bad(CheckTransition, "%s: %v", e.Object, err)
		case next != d.To:
			bad(CheckTransition, "%s: %s of a version that is %s leads to %s, not to %s", e.Object, d.Event, d.From, next, d.To)
		}
		if d.Event == key.Activate && !v.generated {
			bad(CheckGeneration, "%s was activated before it was generated", e.Object)
		}
		v.state = d.To
	case MaterialErased:
		if v.erased {
			bad(CheckErasure, "the material of %s was erased twice", e.Object)
		}
		if !gone(v.state) {
			bad(CheckErasure, "the material of %s was erased while it is %s", e.Object, v.state)
		}
		v.erased = true
	case PeriodsSet:
		v.notBefore, v.originatorEnd, v.recipientEnd = d.NotBefore, d.OriginatorEnd, d.RecipientEnd
	}
}

func gone(s key.State) bool { return s == key.Destroyed || s == key.DestroyedCompromised }

func (v *versionState) describe() string {
	switch {
	case v == nil:
		return "not there"
	case v.erased:
		return v.state.String() + " and erased"
	case v.generated:
		return v.state.String() + " and generated"
	}
	return v.state.String()
}

func (k *keyState) finish(name Name) (out []Problem) {
	for i := range k.versions {
		if v := &k.versions[i]; gone(v.state) && !v.erased {
			out = append(out, Problem{CheckErasure, int64(v.last), fmt.Sprintf("key %s version %d is %s, and no entry says that its material was erased", name, v.number, v.state)})
		}
	}
	if v := k.version(k.primary); k.primary != 0 && (v == nil || v.state != key.Active && v.state != key.Suspended) {
		p := Problem{CheckPrimary, -1, fmt.Sprintf("the primary version %d of key %s is %s", k.primary, name, v.describe())}
		if v != nil {
			p.Entry = int64(v.last)
		}
		out = append(out, p)
	}
	return out
}

func (r *Replay) keyFacts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for _, n := range sortedKeys(r.keys) {
			k := r.keys[n]
			d := Details{Algorithm: k.algorithm, Usages: k.usages, Pool: k.pool, Primary: k.primary}
			if !yield(&Fact{Object{Kind: KindKey, Name: n, ID: k.id}, d}) {
				return
			}
		}
	}
}

func (r *Replay) versionFacts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for _, n := range sortedKeys(r.keys) {
			for _, v := range r.keys[n].versions {
				d := Details{
					State: v.state, Generated: Flag(v.generated), Erased: Flag(v.erased), KCV: v.kcv, Public: v.public,
					NotBefore: v.notBefore, OriginatorEnd: v.originatorEnd, RecipientEnd: v.recipientEnd,
				}
				if !yield(&Fact{Object{Kind: KindVersion, Name: n, Number: v.number, ID: v.id}, d}) {
					return
				}
			}
		}
	}
}
