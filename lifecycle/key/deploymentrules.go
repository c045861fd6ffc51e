package key

import (
	"fmt"
	"slices"
	"time"
)

// Deployment is one version at one target.
type Deployment struct {
	Version uint32          `json:"version"`
	Target  string          `json:"target"`
	State   DeploymentState `json:"state"`
	// Waivers names who answers for destroying the master while this target may still hold the key. One name counts once.
	Waivers []string `json:"waivers,omitempty"`
}

// Waivers is how many different people must answer for a target that cannot be shown to have removed a key.
const Waivers = 2

// Settled reports whether the deployment does not stand in the way of destroying its version: removed, or waived.
func (d *Deployment) Settled() bool {
	return d.State == DeploymentRemoved || len(slices.Compact(slices.Sorted(slices.Values(d.Waivers)))) >= Waivers
}

// ordered holds the orders that a version's state admits. Facts are admitted always, but for going live.
//
// Pre-active: positioned ahead. Deactivated: for the recovery of a reader, which policy approves. Suspended freezes:
// things are taken away, nothing is sent. Compromised and destroyed: removal, urgent.
var ordered = map[State][]DeploymentEvent{
	PreActive:            {DeployApprove, DeployCancel, DeploySend, DeployWithdraw, DeployRemove, DeployReplan},
	Active:               {DeployApprove, DeployCancel, DeploySend, DeployWithdraw, DeployRemove, DeployReplan},
	Suspended:            {DeployCancel, DeployWithdraw, DeployRemove},
	Deactivated:          {DeployApprove, DeployCancel, DeploySend, DeployWithdraw, DeployRemove, DeployReplan},
	Compromised:          {DeployCancel, DeployWithdraw, DeployRemove},
	Destroyed:            {DeployCancel, DeployRemove},
	DestroyedCompromised: {DeployCancel, DeployRemove},
}

// LiveAdmitted reports whether a deployment may be live, or superseded, while its version is in state s. Compromised
// processes, but its distribution is at an end.
func LiveAdmitted(s State) bool { return s == Active || s == Deactivated }

// Deploy is [NextDeployment] for a version: it refuses what the version's state and dates at the time now do not admit.
// A target that says it is live with a version that may not be has drifted, and is recorded so.
func Deploy(v *Version, d DeploymentState, e DeploymentEvent, now time.Time) (DeploymentState, error) {
	s := v.Effective(now)
	next, err := NextDeployment(d, e)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%s: %w", v.Ref(), err)
	case e.Order() && !slices.Contains(ordered[s], e):
		return 0, fmt.Errorf("%s: %w: a version that is %s admits no %s", v.Ref(), ErrDeployment, s, e)
	case (next == DeploymentLive || next == DeploymentSuperseded) && (!LiveAdmitted(s) || !v.Processes(now)):
		return DeploymentDrifted, nil
	case next == DeploymentApproved && !slices.Contains(ordered[s], DeploySend):
		return DeploymentRemoved, nil // it never was there, and is not to be sent any more
	}
	return next, nil
}

// Forced returns the order that the version's state and dates at the time now demand for a deployment in state d, to be
// recorded in the transaction that changed the version; ok is false when there is none. Urgent ones go before all others.
func Forced(v *Version, d DeploymentState, now time.Time) (e DeploymentEvent, urgent, ok bool) {
	s := v.Effective(now)
	compromised := s == Compromised || s == DestroyedCompromised
	switch {
	case d == DeploymentRemoved || d == DeploymentRemoving:
		return 0, false, false
	case compromised || s == Destroyed:
		if !d.MayHold() {
			return DeployCancel, false, true
		}
		return DeployRemove, compromised, true
	case (d == DeploymentLive || d == DeploymentSuperseded) && past(v.RecipientEnd, now):
		return DeployRemove, false, true
	case d == DeploymentLive && !v.Processes(now):
		return DeployWithdraw, true, true
	case d == DeploymentSuperseded && !v.Processes(now):
		return DeployDrift, true, true // it opens what it must not until the target stopped it
	}
	return 0, false, false
}
