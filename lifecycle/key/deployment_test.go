package key

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// deploymentTable is the machine once more, written as a person reads it: what may follow each state, by which event.
const deploymentTable = `
planned      approve>approved cancel>removed
approved     send>sending cancel>removed
sending      staged>staged absent>approved remove>removing fail>failed lose>unknown silence>unreachable
staged       live>live remove>removing fail>failed lose>unknown drift>drifted silence>unreachable
live         supersede>superseded withdraw>drifted remove>removing fail>failed lose>unknown drift>drifted silence>unreachable
superseded   remove>removing fail>failed lose>unknown drift>drifted silence>unreachable
removing     gone>removed fail>failed lose>unknown drift>drifted silence>unreachable
removed      replan>planned drift>drifted
unknown      staged>staged live>live supersede>superseded absent>approved gone>removed remove>removing fail>failed drift>drifted silence>unreachable
failed       send>sending staged>staged live>live supersede>superseded absent>approved gone>removed remove>removing lose>unknown drift>drifted silence>unreachable
drifted      send>sending staged>staged live>live supersede>superseded absent>approved gone>removed remove>removing fail>failed lose>unknown silence>unreachable
unreachable  staged>staged live>live supersede>superseded absent>approved gone>removed remove>removing fail>failed lose>unknown drift>drifted
`

func TestEveryDeploymentStateAndEvent(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(deploymentTable), "\n")
	if len(lines) != len(deploymentNames) || len(deployments) != len(deploymentNames) {
		t.Fatalf("%d rows for %d states", len(lines), len(deploymentNames))
	}
	for _, line := range lines {
		cells := strings.Fields(line)
		var from DeploymentState
		if err := from.UnmarshalText([]byte(cells[0])); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, c := range cells[1:] {
			e, to, _ := strings.Cut(c, ">")
			want[e] = to
		}
		for e, name := range deploymentEventNames {
			got, err := NextDeployment(from, e)
			switch to, ok := want[name]; {
			case ok && (err != nil || got.String() != to):
				t.Errorf("%s of %s: %v, %v; want %s", name, from, got, err, to)
			case !ok && (!errors.Is(err, ErrDeployment) || got != 0 || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), from.String())):
				t.Errorf("%s of %s: %v, %v; want an error that names both", name, from, got, err)
			}
			delete(want, name)
		}
		if len(want) > 0 {
			t.Errorf("%s: unknown events %v", from, want)
		}
	}
	if err := new(DeploymentState).UnmarshalText([]byte("lost")); err == nil {
		t.Error("an unknown state was read")
	}
	for _, d := range []DeploymentState{0, DeploymentUnreachable + 1} {
		if _, err := NextDeployment(d, DeployLive); !errors.Is(err, ErrDeployment) {
			t.Errorf("%s: %v", d, err)
		}
	}
}

// What is not known to have been kept away from a target, or removed from it, counts as there. An order whose outcome is not
// known is never simply given again.
func TestWhatMayHoldAKey(t *testing.T) {
	for d := range deploymentNames {
		if want := !slices.Contains([]DeploymentState{DeploymentPlanned, DeploymentApproved, DeploymentRemoved}, d); d.MayHold() != want {
			t.Errorf("%s: MayHold %v", d, d.MayHold())
		}
	}
	for _, d := range []DeploymentState{DeploymentUnknown, DeploymentUnreachable, DeploymentSending} {
		if next, err := NextDeployment(d, DeploySend); err == nil {
			t.Errorf("%s is sent again blindly: %s", d, next)
		}
	}
	for e := range deploymentEventNames {
		if want := slices.Contains([]string{"approve", "cancel", "send", "withdraw", "remove", "replan"}, e.String()); e.Order() != want {
			t.Errorf("%s: Order %v", e, e.Order())
		}
	}
}

// What each state of a version admits and demands, row by row.
func TestVersionRulesItsDeployments(t *testing.T) {
	const no = DeploymentState(0)
	f := func(s State, d DeploymentState, e DeploymentEvent, want DeploymentState) {
		t.Helper()
		got, err := Deploy(&Version{Name: "k", Number: 1, State: s}, d, e, noon)
		if got != want || (err == nil) != (want != no) || err != nil && !errors.Is(err, ErrDeployment) {
			t.Errorf("%s version, %s deployment, %s: %v, %v; want %v", s, d, e, got, err, want)
		}
	}
	f(PreActive, DeploymentApproved, DeploySend, DeploymentSending)
	f(PreActive, DeploymentStaged, DeployLive, DeploymentDrifted)
	f(Active, DeploymentStaged, DeployLive, DeploymentLive)
	f(Active, DeploymentLive, DeployRemove, DeploymentRemoving)
	f(Deactivated, DeploymentApproved, DeploySend, DeploymentSending)
	f(Deactivated, DeploymentStaged, DeployLive, DeploymentLive)
	for _, s := range []State{Suspended, Compromised, Destroyed, DestroyedCompromised} {
		f(s, DeploymentPlanned, DeployApprove, no)
		f(s, DeploymentApproved, DeploySend, no)
		f(s, DeploymentFailed, DeploySend, no)
		f(s, DeploymentDrifted, DeploySend, no)
		f(s, DeploymentRemoved, DeployReplan, no)
		f(s, DeploymentStaged, DeployLive, DeploymentDrifted)
		f(s, DeploymentUnknown, DeploySupersede, DeploymentDrifted)
		f(s, DeploymentUnknown, DeployAbsent, DeploymentRemoved)
		f(s, DeploymentStaged, DeployRemove, DeploymentRemoving)
		f(s, DeploymentSending, DeployStaged, DeploymentStaged)
		f(s, DeploymentApproved, DeployCancel, DeploymentRemoved)
		f(s, DeploymentRemoving, DeployGone, DeploymentRemoved)
	}
	f(Active, DeploymentUnknown, DeployAbsent, DeploymentApproved)
	f(Active, DeploymentPlanned, DeployLive, no)

	g := func(v *Version, d DeploymentState, want DeploymentEvent, wantUrgent bool) {
		t.Helper()
		if e, urgent, ok := Forced(v, d, noon); e != want || urgent != wantUrgent || ok != (want != 0) {
			t.Errorf("%s version, %s deployment: %s, urgent=%v, %v; want %s, %v", v.State, d, e, urgent, ok, want, wantUrgent)
		}
	}
	over := &Version{State: Deactivated, RecipientEnd: noon}
	early := &Version{State: Active, NotBefore: noon.Add(1)}
	if got, err := Deploy(over, DeploymentStaged, DeployLive, noon); got != DeploymentDrifted || err != nil {
		t.Errorf("live after its recipient-usage period: %s, %v", got, err)
	}
	g(&Version{State: Active}, DeploymentLive, 0, false)
	g(&Version{State: Deactivated}, DeploymentSuperseded, 0, false)
	g(&Version{State: Suspended}, DeploymentLive, DeployWithdraw, true)
	g(&Version{State: Suspended}, DeploymentSuperseded, DeployDrift, true)
	g(&Version{State: Suspended}, DeploymentStaged, 0, false)
	g(&Version{State: Compromised}, DeploymentLive, DeployRemove, true)
	g(&Version{State: Compromised}, DeploymentUnreachable, DeployRemove, true)
	g(&Version{State: Compromised}, DeploymentApproved, DeployCancel, false)
	g(&Version{State: Compromised}, DeploymentRemoving, 0, false)
	g(&Version{State: Destroyed}, DeploymentUnreachable, DeployRemove, false)
	g(&Version{State: DestroyedCompromised}, DeploymentFailed, DeployRemove, true)
	g(over, DeploymentLive, DeployRemove, false)
	g(over, DeploymentSuperseded, DeployRemove, false)
	g(early, DeploymentLive, DeployWithdraw, true)
}
