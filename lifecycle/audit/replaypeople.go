package audit

import (
	"iter"
	"slices"
)

func (r *Replay) doClient(e *Entry, bad badFunc) {
	d := &e.Details
	switch e.Action {
	case GrantGiven:
		// Numbers rise, and are not used again: an entry about grant 7 is for ever about one grant.
		if e.Object.Number <= r.given {
			bad(CheckDuplicate, "%s was given after %d", e.Object, r.given)
		}
		r.given = max(r.given, e.Object.Number)
		given := *d
		r.grants[e.Object.Number] = &given
		return
	case GrantWithdrawn:
		if r.grants[e.Object.Number] == nil {
			bad(CheckUnknown, "%s was withdrawn and is not there", e.Object)
		}
		delete(r.grants, e.Object.Number)
		return
	case ClientCreated:
		if !insert(r.clients, e.Object.Name, *d) {
			bad(CheckDuplicate, "%s was created a second time", e.Object)
		}
		return
	}
	c := r.clients[e.Object.Name]
	if c == nil {
		bad(CheckUnknown, "%s of %s, which is not there", e.Action, e.Object)
		return
	}
	switch e.Action {
	case ClientChanged:
		*c = *d
	case ClientDeleted:
		delete(r.clients, e.Object.Name)
	case TokenIssued:
		c.Tokens = d.Tokens
	}
}

func (r *Replay) grantFacts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		for _, n := range sortedKeys(r.grants) {
			if !yield(&Fact{Object{Kind: KindGrant, Number: n}, *r.grants[n]}) {
				return
			}
		}
	}
}

func (r *Replay) doPerson(e *Entry, bad badFunc) {
	d := &e.Details
	if e.Action == PersonCreated {
		if !insert(r.persons, e.Object.Name, *d) {
			bad(CheckDuplicate, "%s was created a second time", e.Object)
		}
		return
	}
	p := r.persons[e.Object.Name]
	if p == nil {
		bad(CheckUnknown, "%s of %s, who is not there", e.Action, e.Object)
		return
	}
	switch e.Action {
	case PersonChanged:
		p.Certificates, p.Tokens = d.Certificates, d.Tokens
	case PersonDisabled:
		p.Disabled = true
	case PersonEnabled:
		p.Disabled = false
	case RoleGiven:
		i, has := slices.BinarySearch(p.Roles, d.Role)
		if has {
			bad(CheckDuplicate, "%s was given the role %s a second time", e.Object, d.Role)
			return
		}
		p.Roles = slices.Insert(slices.Clone(p.Roles), i, d.Role)
		if len(p.Roles) > 1 && slices.Contains(p.Roles, RoleAuditor) {
			bad(CheckRole, "%s has the roles %v: an auditor must have no other", e.Object, p.Roles)
		}
		if string(e.Actor.Name) == string(e.Object.Name) {
			bad(CheckRole, "%s gave the role %s to themselves", e.Actor.Name, d.Role)
		}
	case RoleWithdrawn:
		i, has := slices.BinarySearch(p.Roles, d.Role)
		if !has {
			bad(CheckUnknown, "the role %s was withdrawn from %s, who does not have it", d.Role, e.Object)
			return
		}
		p.Roles = slices.Delete(slices.Clone(p.Roles), i, i+1)
	}
}
