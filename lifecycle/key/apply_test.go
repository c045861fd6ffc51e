package key

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// breach returns what is wrong with a record at the time now, nil when every invariant holds. waived and removed is what a
// destroyed version needs; a target where it reappears later is a fact, which must show as a mishap or a removal.
func breach(r *Record, now time.Time) error {
	k := &r.Key
	if p := k.version(k.Primary); k.Primary != 0 && (p == nil || p.State != Active && p.State != Suspended) {
		return fmt.Errorf("version %d is primary", k.Primary)
	}
	unbounded := 0
	for i, v := range k.Versions {
		if v.Number != uint32(i+1) {
			return fmt.Errorf("version %d is missing", i+1)
		}
		if v.State == Active && v.OriginatorEnd.IsZero() {
			unbounded++
			if v.Number != k.Primary {
				return fmt.Errorf("version %d is active without an end, and not primary", v.Number)
			}
		}
		if v.State.Gone() && v.Blob != nil {
			return fmt.Errorf("version %d is %s and has its material", v.Number, v.State)
		}
	}
	if unbounded > 1 {
		return fmt.Errorf("%d active versions without an end", unbounded)
	}
	for _, d := range r.Deployments {
		v := k.version(d.Version)
		live := d.State == DeploymentLive || d.State == DeploymentSuperseded
		if s := v.Effective(now); live && (v.Permits(Verify, now) != nil || s == Compromised) {
			return fmt.Errorf("version %d is %s and %s at %s", v.Number, s, d.State, d.Target)
		}
		if v.State.Gone() && (live || !d.State.MayHold() && d.State != DeploymentRemoved) {
			return fmt.Errorf("version %d is %s and %s at %s", v.Number, v.State, d.State, d.Target)
		}
	}
	return nil
}

// checkDestroy fails when a version was destroyed though a target may hold it and no two people answer for that.
func checkDestroy(before, after *Record) error {
	for i, v := range before.Key.Versions {
		if v.State.Gone() || !after.Key.Versions[i].State.Gone() {
			continue
		}
		for _, d := range before.Deployments {
			people := map[string]bool{}
			for _, w := range d.Waivers {
				people[w] = true
			}
			if d.Version == v.Number && d.State != DeploymentRemoved && len(people) < 2 {
				return fmt.Errorf("version %d was destroyed while it is %s at %s, waived by %v", v.Number, d.State, d.Target, d.Waivers)
			}
		}
	}
	return nil
}

// Under any sequence of commands, with a clock that jumps about, every invariant holds after each.
func TestInvariantsUnderAnyCommands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &twoClocks{wall: noon}
		clock := NewClock(m.source, time.Time{})
		r := &Record{Key: Key{ID: ID{1}, Name: "k", Algorithm: ECP256, Usages: Sign | Verify}}
		ended, erased := map[uint32]bool{}, map[uint32]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "time") == 0 {
				m.pass(time.Duration(rapid.IntRange(0, 90).Draw(t, "passed"))*time.Minute, time.Duration(rapid.IntRange(-90, 90).Draw(t, "jump"))*time.Minute)
			}
			c := &Command{At: clock.Now(), Version: uint32(rapid.IntRange(0, 3).Draw(t, "version")),
				Verb:  rapid.SampledFrom([]Verb{VerbAdd, VerbChange, VerbChange, VerbPlan, VerbDeploy, VerbDeploy, VerbDeploy, VerbWaive, VerbTime}).Draw(t, "verb"),
				Event: Event(rapid.IntRange(1, int(Destroy)).Draw(t, "event")), Target: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "target"),
				Deploy: DeploymentEvent(rapid.IntRange(1, int(DeploySilence)).Draw(t, "deploy")), Person: rapid.SampledFrom([]string{"", "anna", "berta"}).Draw(t, "person"),
				Overlap: time.Duration(rapid.IntRange(0, 2).Draw(t, "overlap")) * time.Hour}
			before := r.clone()
			next, err := Apply(r, c)
			if !reflect.DeepEqual(r, before) {
				t.Fatalf("%+v changed the record it was given", c)
			}
			if err != nil {
				if !errors.Is(err, ErrState) && !errors.Is(err, ErrTransition) && !errors.Is(err, ErrDeployment) && !errors.Is(err, ErrNotFound) {
					t.Fatalf("%+v: %v is no error that callers can tell", c, err)
				}
				continue
			}
			if err := errors.Join(checkDestroy(r, next), checkFrozen(r, next)); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			if c.Verb == VerbAdd {
				v := next.Key.Versions[len(next.Key.Versions)-1]
				v.Blob, v.RecipientEnd = []byte{1}, c.At.Add(2*time.Hour)
			}
			r = next
			if err := breach(r, c.At); err != nil {
				t.Fatalf("after %+v: %v", c, err)
			}
			for _, v := range r.Key.Versions {
				if ended[v.Number] && v.Permits(Sign, c.At) == nil || erased[v.Number] && !v.State.Gone() {
					t.Fatalf("after %+v: version %d is %s again", c, v.Number, v.Effective(c.At))
				}
				s := v.Effective(c.At)
				ended[v.Number] = ended[v.Number] || s == Deactivated || s == Compromised || s.Gone()
				erased[v.Number] = erased[v.Number] || v.State.Gone()
			}
		}
	})
}

// checkFrozen fails when something was sent, or began to be wanted, of a version that is suspended, compromised or gone.
func checkFrozen(before, after *Record) error {
	for i, d := range after.Deployments {
		s := after.Key.version(d.Version).State
		was := DeploymentState(0)
		if i < len(before.Deployments) {
			was = before.Deployments[i].State
		}
		onward := d.State == DeploymentPlanned || d.State == DeploymentApproved || d.State == DeploymentSending
		if onward && d.State != was && (s == Suspended || s == Compromised || s.Gone()) {
			return fmt.Errorf("version %d is %s and goes from %s to %s at %s", d.Version, s, was, d.State, d.Target)
		}
	}
	return nil
}

// All that can become of one version at one target, exhaustively: every state is reached, and no pair but these.
func TestEveryStateIsReachedAndNoForbiddenPair(t *testing.T) {
	start := &Record{Key: Key{Name: "k", Algorithm: ECP256, Usages: Sign | Verify}}
	seen := map[string]*Record{}
	pairs := map[State]map[DeploymentState]bool{}
	queue := []*Record{start}
	var commands []*Command
	for e := Activate; e <= Destroy; e++ {
		commands = append(commands, &Command{Verb: VerbChange, Event: e})
	}
	for e := DeployApprove; e <= DeploySilence; e++ {
		commands = append(commands, &Command{Verb: VerbDeploy, Deploy: e})
	}
	commands = append(commands, &Command{Verb: VerbAdd}, &Command{Verb: VerbPlan}, &Command{Verb: VerbWaive, Person: "anna"}, &Command{Verb: VerbWaive, Person: "berta"})
	for len(queue) > 0 {
		r := queue[0]
		queue = queue[1:]
		for _, c := range commands {
			if c.Verb == VerbAdd && len(r.Key.Versions) > 0 {
				continue
			}
			c.At, c.Version, c.Target = noon, 1, "a"
			next, err := Apply(r, c)
			if err != nil {
				continue
			}
			if err := errors.Join(breach(next, noon), checkDestroy(r, next), checkFrozen(r, next)); err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			id := fmt.Sprint(*next.Key.Versions[0], next.Key.Primary, next.Deployments)
			if seen[id] != nil {
				continue
			}
			seen[id] = next
			queue = append(queue, next)
			for _, d := range next.Deployments {
				if pairs[next.Key.Versions[0].State] == nil {
					pairs[next.Key.Versions[0].State] = map[DeploymentState]bool{}
				}
				pairs[next.Key.Versions[0].State][d.State] = true
			}
		}
	}
	mishaps := []DeploymentState{DeploymentUnknown, DeploymentFailed, DeploymentDrifted, DeploymentUnreachable}
	toThere := []DeploymentState{DeploymentPlanned, DeploymentApproved, DeploymentSending, DeploymentStaged}
	out := []DeploymentState{DeploymentRemoving, DeploymentRemoved}
	all := slices.Concat(toThere, []DeploymentState{DeploymentLive, DeploymentSuperseded}, out, mishaps)
	want := map[State][]DeploymentState{
		PreActive: slices.Concat(toThere, out, mishaps), Active: all, Suspended: slices.Concat(toThere, out, mishaps), Deactivated: all,
		Compromised: slices.Concat(out, mishaps), Destroyed: slices.Concat(out, mishaps), DestroyedCompromised: slices.Concat(out, mishaps),
	}
	for s, ds := range want {
		slices.Sort(ds)
		if got := slices.Sorted(maps.Keys(pairs[s])); !slices.Equal(got, ds) {
			t.Errorf("a version that is %s: deployments %v, want %v", s, got, ds)
		}
	}
	if len(pairs) != len(stateNames) {
		t.Errorf("%d states of %d were reached", len(pairs), len(stateNames))
	}
}

// do applies commands in order and fails at the first refusal.
func do(t *testing.T, r *Record, commands ...Command) *Record {
	t.Helper()
	for _, c := range commands {
		if c.At.IsZero() {
			c.At = noon
		}
		next, err := Apply(r, &c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		r = next
	}
	return r
}

func TestRotationKeepsOnePrimaryAndAnOverlap(t *testing.T) {
	r := do(t, &Record{Key: Key{Name: "k", Algorithm: ECP256, Usages: Sign | Verify}}, Command{Verb: VerbAdd}, Command{Verb: VerbChange, Version: 1, Event: Activate}, Command{Verb: VerbAdd})
	over := do(t, r, Command{Verb: VerbChange, Version: 2, Event: Activate, Overlap: time.Hour})
	old := over.Key.Versions[0]
	if over.Key.Primary != 2 || old.Permits(Sign, noon.Add(time.Hour-1)) != nil || old.Permits(Sign, noon.Add(time.Hour)) == nil || old.Permits(Verify, noon.Add(time.Hour)) != nil {
		t.Errorf("primary %d, the old one ends at %s", over.Key.Primary, old.OriginatorEnd)
	}
	if at := do(t, r, Command{Verb: VerbChange, Version: 2, Event: Activate}); at.Key.Versions[0].State != Deactivated {
		t.Errorf("without an overlap the old version is %s", at.Key.Versions[0].State)
	}
	paused := do(t, r, Command{Verb: VerbChange, Version: 1, Event: Suspend})
	if p := do(t, paused, Command{Verb: VerbChange, Version: 1, Event: Resume}); paused.Key.Primary != 1 || p.Key.Primary != 1 {
		t.Errorf("primary is %d while it is suspended and %d after", paused.Key.Primary, p.Key.Primary)
	}
	// A rotation does not lift a suspension, and the version that lost its place does not come back beside the new one.
	held := do(t, r, Command{Verb: VerbChange, Version: 1, Event: Suspend}, Command{Verb: VerbChange, Version: 2, Event: Activate})
	if s := held.Key.Versions[0].State; s != Suspended || held.Key.Primary != 2 {
		t.Errorf("the suspended version is %s after the rotation, primary is %d", s, held.Key.Primary)
	}
	if _, err := Apply(held, &Command{Verb: VerbChange, At: noon, Version: 1, Event: Resume}); !errors.Is(err, ErrState) {
		t.Errorf("resumed beside the new primary: %v", err)
	}
}

func TestDestructionWaitsForTargetsOrTwoPeople(t *testing.T) {
	r := do(t, &Record{Key: Key{Name: "k", Algorithm: ECP256, Usages: Sign | Verify}}, Command{Verb: VerbAdd}, Command{Verb: VerbChange, Version: 1, Event: Activate},
		Command{Verb: VerbPlan, Version: 1, Target: "a"}, Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeployApprove},
		Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeploySend}, Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeployStaged},
		Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeployLive}, Command{Verb: VerbChange, Version: 1, Event: Deactivate})
	destroy := Command{Verb: VerbChange, At: noon, Version: 1, Event: Destroy}
	refused := func(r *Record, c Command, want error) {
		t.Helper()
		if _, err := Apply(r, &c); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", c, err, want)
		}
	}
	waive := func(p string) Command {
		return Command{Verb: VerbWaive, At: noon, Version: 1, Target: "a", Person: p}
	}
	refused(r, destroy, ErrState)
	refused(r, waive("anna"), ErrDeployment) // it answers: it can be removed
	r = do(t, r, Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeploySilence}, waive("anna"))
	refused(r, destroy, ErrState)
	refused(r, waive("anna"), ErrDeployment)
	refused(r, waive(""), ErrDeployment)
	twice := r.clone()
	twice.Deployments[0].Waivers = []string{"anna", "anna"} // whoever wrote that, it is one person
	refused(twice, destroy, ErrState)
	waived := do(t, r, waive("berta"))
	gone := do(t, waived, destroy)
	if gone.Key.Versions[0].State != Destroyed || gone.Deployments[0].State != DeploymentRemoving {
		t.Errorf("%s, %s", gone.Key.Versions[0].State, gone.Deployments[0].State)
	}
	// When the target answers again, nobody answers for it any more.
	back := do(t, waived, Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeployLive})
	if back.Deployments[0].Waivers != nil {
		t.Errorf("live, and waived by %v", back.Deployments[0].Waivers)
	}
	refused(back, destroy, ErrState)
	removed := do(t, r, Command{Verb: VerbDeploy, Version: 1, Target: "a", Deploy: DeployGone})
	do(t, removed, destroy)
}

// A compromise takes everything out at once and halts the key; what failed to be removed stays to be seen.
func TestCompromiseRemovesEverywhere(t *testing.T) {
	r := do(t, &Record{Key: Key{Name: "k", Algorithm: ECP256, Usages: Sign | Verify}}, Command{Verb: VerbAdd}, Command{Verb: VerbChange, Version: 1, Event: Activate})
	for d := range deploymentNames {
		r.Deployments = append(r.Deployments, Deployment{Version: 1, Target: d.String(), State: d})
	}
	r = do(t, r, Command{Verb: VerbChange, Version: 1, Event: Compromise})
	for _, d := range r.Deployments {
		if held := slices.Contains([]string{"planned", "approved", "removed"}, d.Target); (d.State == DeploymentRemoved) != held || !held && d.State != DeploymentRemoving {
			t.Errorf("what was %s is %s", d.Target, d.State)
		}
	}
	if r.Key.Primary != 0 {
		t.Errorf("version %d is primary", r.Key.Primary)
	}
	r = do(t, r, Command{Verb: VerbDeploy, Version: 1, Target: "live", Deploy: DeployFail}, Command{Verb: VerbTime})
	i := slices.IndexFunc(r.Deployments, func(d Deployment) bool { return d.Target == "live" })
	if s := r.Deployments[i].State; s != DeploymentFailed {
		t.Errorf("a removal that failed is %s", s)
	}
}
