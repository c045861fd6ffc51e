package key

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestFindingNeedsAReasonOfTheListAndWords(t *testing.T) {
	f := func(fi Finding, want string) {
		t.Helper()
		err := fi.Check()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", fi.Reason, err, want)
		}
	}
	for _, r := range Reasons() {
		f(Finding{r, "seen on a disk"}, "")
		f(Finding{r, " \n"}, "say what happened")
	}
	f(Finding{"", "x"}, "exposed")
	f(Finding{"other", "x"}, "suspected")
	f(Finding{ReasonToken, strings.Repeat("a", MaxReasonText)}, "")
	f(Finding{ReasonToken, strings.Repeat("a", MaxReasonText+1)}, "1024")
	f(Finding{ReasonToken, "\xff"}, "UTF-8")
}

func TestBlastRadius(t *testing.T) {
	pay := &Key{ID: ID{1}, Name: "pay", Pool: "p", Usages: Sign, Primary: 2, Versions: []*Version{
		{Number: 1, State: Deactivated, Created: noon}, {Number: 2, State: Active, Created: noon.Add(1), NotBefore: noon.Add(time.Hour)}}}
	logs := &Key{ID: ID{2}, Name: "logs", Pool: "p", Usages: MAC, Primary: 1, Versions: []*Version{{Number: 1, State: Active, Created: noon}}}
	far := &Key{ID: ID{3}, Name: "far", Pool: "q", Usages: MAC, Primary: 0, Versions: []*Version{
		{Number: 1, State: Destroyed, Created: noon}, {Number: 2, State: Compromised, Created: noon}, {Number: 3, State: Suspended, Created: noon}}}
	keys := []*Key{pay, logs, far}
	deployed := map[ID][]Deployment{
		pay.ID:  {{Version: 1, Target: "aws", State: DeploymentRemoved}, {Version: 2, Target: "aws", State: DeploymentLive}, {Version: 2, Target: "hsm", State: DeploymentUnknown}},
		logs.ID: {{Version: 1, Target: "hsm", State: DeploymentFailed}, {Version: 1, Target: "aws", State: DeploymentApproved}},
	}
	f := func(s Scope, versions, halted, targets string) {
		t.Helper()
		r := BlastRadius(s, keys, deployed)
		var refs []string
		for _, v := range r.Versions {
			refs = append(refs, v.Ref.String())
		}
		if got := strings.Join(refs, " "); got != versions {
			t.Errorf("%+v: versions %q, want %q", s, got, versions)
		}
		if got := strings.Join(r.Halted, " "); got != halted {
			t.Errorf("%+v: halted %q, want %q", s, got, halted)
		}
		if got := strings.Join(r.Targets, " "); got != targets {
			t.Errorf("%+v: targets %q, want %q", s, got, targets)
		}
	}
	f(Scope{}, "", "", "")
	f(Scope{Name: "pay"}, "pay:1 pay:2", "pay", "aws hsm")
	f(Scope{Name: "pay", Version: 1}, "pay:1", "", "")
	f(Scope{Pool: "p"}, "pay:1 pay:2 logs:1", "pay logs", "aws hsm")
	f(Scope{Pool: "q"}, "far:1 far:3", "", "")
	f(Scope{Target: "hsm"}, "pay:2 logs:1", "pay logs", "aws hsm")
	f(Scope{Target: "aws"}, "pay:2", "pay", "aws hsm") // version 1 was removed there, and logs never sent
	f(Scope{Target: "aws", Name: "logs"}, "", "", "")
	f(Scope{Name: "none"}, "", "", "")
	got := BlastRadius(Scope{Name: "pay", Version: 2}, keys, deployed).Versions[0]
	want := Touched{Ref: Ref{"pay", 2}, State: Active, Primary: true, Usages: Sign, Since: noon.Add(time.Hour), Holding: slices.Clone(deployed[pay.ID][1:])}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
