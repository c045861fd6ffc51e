package audit

import (
	"iter"
	"slices"

	"keyway/lifecycle/key"
)

// underPlan checks the plan that an entry says it is a step of.
func (r *Replay) underPlan(e *Entry, bad badFunc) {
	if e.Plan == (key.ID{}) {
		return
	}
	switch p := r.plans[e.Plan]; {
	case p == nil:
		bad(CheckPlan, "%s of %s is a step of plan %s, which was never made", e.Action, e.Object, e.Plan)
	case p.Status != PlanDone:
		bad(CheckPlan, "%s of %s is a step of plan %s, which is %s and not executed", e.Action, e.Object, e.Plan, p.Status)
	}
}

func (r *Replay) doPlan(e *Entry, bad badFunc) {
	d := &e.Details
	id := e.Object.ID
	if e.Action == PlanMade {
		made := Details{Approvals: d.Approvals, Command: d.Command, Hash: d.Hash, Expires: d.Expires, Requester: e.Actor.Name, Status: PlanOpen}
		if !insert(r.plans, id, made) {
			bad(CheckDuplicate, "%s was made a second time", e.Object)
		}
		return
	}
	p := r.plans[id]
	if p == nil {
		bad(CheckUnknown, "%s of %s, which was never made", e.Action, e.Object)
		return
	}
	if p.Status != PlanOpen {
		bad(CheckPlan, "%s of %s, which is %s already", e.Action, e.Object, p.Status)
		return
	}
	if e.Action != PlanExpired && d.Hash != p.Hash {
		bad(CheckPlan, "%s of %s speaks of a plan with the hash %s, and its hash is %s", e.Action, e.Object, d.Hash, p.Hash)
	}
	late := p.Expires != 0 && e.Time > p.Expires
	switch e.Action {
	case PlanApproved:
		if r.mayApprove(p, e, bad) && !late && d.Hash == p.Hash {
			p.Approvers = append(p.Approvers, e.Actor.Name)
		}
		if late {
			bad(CheckPlan, "%s was approved by %s after it had expired at %s", e.Object, e.Actor.Name, p.Expires)
		}
	case PlanRejected:
		p.Status = PlanNo
	case PlanExecuted:
		if need := max(p.Approvals, r.MinApprovals); Number(len(p.Approvers)) < need {
			bad(CheckApprovals, "%s was executed with %d of %d approvals", e.Object, len(p.Approvers), need)
		}
		if late {
			bad(CheckPlan, "%s was executed after it had expired at %s", e.Object, p.Expires)
		}
		p.Status = PlanDone
	case PlanExpired:
		p.Status = PlanStale
	}
}

// mayApprove says whether an approval counts.
func (r *Replay) mayApprove(p *Details, e *Entry, bad badFunc) bool {
	who := e.Actor.Name
	if who == p.Requester {
		bad(CheckSelfApproval, "%s approved %s, which is their own", who, e.Object)
		return false
	}
	if slices.Contains(p.Approvers, who) {
		bad(CheckApprovals, "%s approved %s a second time", who, e.Object)
		return false
	}
	// A log without persons is one of an installation that does not keep them.
	if person := r.persons[Name(who)]; len(r.persons) > 0 && (person == nil || !slices.Contains(person.Roles, RoleApprover)) {
		bad(CheckRole, "%s approved %s without being an approver", who, e.Object)
		return false
	}
	return true
}

func (r *Replay) planFacts() iter.Seq[*Fact] {
	return func(yield func(*Fact) bool) {
		ids := make([]key.ID, 0, len(r.plans))
		for id := range r.plans {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b key.ID) int { return slices.Compare(a[:], b[:]) })
		for _, id := range ids {
			if !yield(&Fact{Object{Kind: KindPlan, ID: id}, *r.plans[id]}) {
				return
			}
		}
	}
}
