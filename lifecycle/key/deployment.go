package key

import (
	"errors"
	"fmt"
)

// DeploymentState is where one version of a key stands at one target. It is a machine of its own beside the version's [State].
type DeploymentState uint8

// The states of a deployment. The last four are what happens to it rather than where it is going.
const (
	DeploymentPlanned     DeploymentState = iota + 1 // wanted, and waiting for approval
	DeploymentApproved                               // to be sent
	DeploymentSending                                // on its way, and possibly there
	DeploymentStaged                                 // at the target, and not in use
	DeploymentLive                                   // in use at the target
	DeploymentSuperseded                             // at the target for what it protected; a newer version is in use
	DeploymentRemoving                               // on its way out, and possibly still there
	DeploymentRemoved                                // not at the target
	DeploymentUnknown                                // an order was given and its outcome is not known
	DeploymentFailed                                 // the target refused an order, and may have done part of it
	DeploymentDrifted                                // what is at the target is not what should be
	DeploymentUnreachable                            // the target does not answer
)

var deploymentNames = map[DeploymentState]string{
	DeploymentPlanned: "planned", DeploymentApproved: "approved", DeploymentSending: "sending", DeploymentStaged: "staged",
	DeploymentLive: "live", DeploymentSuperseded: "superseded", DeploymentRemoving: "removing", DeploymentRemoved: "removed",
	DeploymentUnknown: "unknown", DeploymentFailed: "failed", DeploymentDrifted: "drifted", DeploymentUnreachable: "unreachable",
}

// String returns the state's word.
func (d DeploymentState) String() string {
	if n, ok := deploymentNames[d]; ok {
		return n
	}
	return fmt.Sprintf("deployment(%d)", uint8(d))
}

// MarshalText writes the state's word.
func (d DeploymentState) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the state's word.
func (d *DeploymentState) UnmarshalText(b []byte) error {
	for s, n := range deploymentNames {
		if n == string(b) {
			*d = s
			return nil
		}
	}
	return fmt.Errorf("unknown deployment state %q", b)
}

// MayHold reports whether the target may have the key: everything but what was never sent and what is known to be
// removed. A refused order may have been half done, so failed counts.
func (d DeploymentState) MayHold() bool {
	return d != DeploymentPlanned && d != DeploymentApproved && d != DeploymentRemoved
}

// DeploymentEvent is what happens to a deployment: an order given, or an answer from the target.
type DeploymentEvent uint8

// The events. Orders come first; Staged, Live, Superseded, Absent, Gone and the mishaps are what a target's answer or
// its inventory says.
const (
	DeployApprove   DeploymentEvent = iota + 1 // order: approved
	DeployCancel                               // order: never sent, and not wanted any more
	DeploySend                                 // order: install
	DeployWithdraw                             // order: stop using it, leave it there
	DeployRemove                               // order: remove
	DeployReplan                               // order: wanted again after it was removed
	DeployStaged                               // answer: there, not in use
	DeployLive                                 // answer: in use
	DeploySupersede                            // answer: there, another version is in use
	DeployAbsent                               // answer: was never installed; the approval still holds
	DeployGone                                 // answer: not there, and not to be
	DeployFail                                 // the target refused
	DeployLose                                 // no answer to an order: the outcome is unknown
	DeployDrift                                // inventory disagrees
	DeploySilence                              // the target cannot be reached
)

var deploymentEventNames = map[DeploymentEvent]string{
	DeployApprove: "approve", DeployCancel: "cancel", DeploySend: "send", DeployWithdraw: "withdraw", DeployRemove: "remove",
	DeployReplan: "replan", DeployStaged: "staged", DeployLive: "live", DeploySupersede: "supersede", DeployAbsent: "absent",
	DeployGone: "gone", DeployFail: "fail", DeployLose: "lose", DeployDrift: "drift", DeploySilence: "silence",
}

// String returns the event's word.
func (e DeploymentEvent) String() string {
	if n, ok := deploymentEventNames[e]; ok {
		return n
	}
	return fmt.Sprintf("deployment-event(%d)", uint8(e))
}

// Order reports whether e is an order; the other events are facts, which come whether anybody likes them or not.
func (e DeploymentEvent) Order() bool { return e >= DeployApprove && e <= DeployReplan }

// ErrDeployment is wrapped by the errors of [NextDeployment] and [Deploy].
var ErrDeployment = errors.New("illegal move of a deployment")

// found is how the mishaps are left: by what an inspection finds, never by sending again blindly.
var found = map[DeploymentEvent]DeploymentState{
	DeployStaged: DeploymentStaged, DeployLive: DeploymentLive, DeploySupersede: DeploymentSuperseded,
	DeployAbsent: DeploymentApproved, DeployGone: DeploymentRemoved, DeployRemove: DeploymentRemoving,
	DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeployDrift: DeploymentDrifted, DeploySilence: DeploymentUnreachable,
}

// deployments is the machine as data. The mishaps share found besides their own rows; an event that leads to where a
// mishap already is goes nowhere and is refused like any other.
var deployments = map[DeploymentState]map[DeploymentEvent]DeploymentState{
	DeploymentPlanned:  {DeployApprove: DeploymentApproved, DeployCancel: DeploymentRemoved},
	DeploymentApproved: {DeploySend: DeploymentSending, DeployCancel: DeploymentRemoved},
	DeploymentSending: {DeployStaged: DeploymentStaged, DeployAbsent: DeploymentApproved, DeployRemove: DeploymentRemoving,
		DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeploySilence: DeploymentUnreachable},
	DeploymentStaged: {DeployLive: DeploymentLive, DeployRemove: DeploymentRemoving,
		DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeployDrift: DeploymentDrifted, DeploySilence: DeploymentUnreachable},
	// To withdraw is recorded before the target did it: until it says staged, it uses what it should not, which is drift.
	DeploymentLive: {DeploySupersede: DeploymentSuperseded, DeployWithdraw: DeploymentDrifted, DeployRemove: DeploymentRemoving,
		DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeployDrift: DeploymentDrifted, DeploySilence: DeploymentUnreachable},
	DeploymentSuperseded: {DeployRemove: DeploymentRemoving,
		DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeployDrift: DeploymentDrifted, DeploySilence: DeploymentUnreachable},
	DeploymentRemoving: {DeployGone: DeploymentRemoved,
		DeployFail: DeploymentFailed, DeployLose: DeploymentUnknown, DeployDrift: DeploymentDrifted, DeploySilence: DeploymentUnreachable},
	DeploymentRemoved: {DeployReplan: DeploymentPlanned, DeployDrift: DeploymentDrifted},
	// A refusal is an answer and drift is seen, so both may be sent again; unknown and unreachable must be looked at first.
	DeploymentFailed:      {DeploySend: DeploymentSending},
	DeploymentDrifted:     {DeploySend: DeploymentSending},
	DeploymentUnknown:     {},
	DeploymentUnreachable: {},
}

// NextDeployment returns the state that follows d after e, or an error wrapping [ErrDeployment]. It does not look at the
// version: [Deploy] does.
func NextDeployment(d DeploymentState, e DeploymentEvent) (DeploymentState, error) {
	if n, ok := deployments[d][e]; ok {
		return n, nil
	}
	if d.Mishap() {
		if n, ok := found[e]; ok && n != d {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: cannot %s one that is %s", ErrDeployment, e, d)
}

// Mishap reports whether d is one of the four states that an inspection has to resolve.
func (d DeploymentState) Mishap() bool {
	return d == DeploymentUnknown || d == DeploymentFailed || d == DeploymentDrifted || d == DeploymentUnreachable
}
