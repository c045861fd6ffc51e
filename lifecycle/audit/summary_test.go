package audit

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSummaries(t *testing.T) {
	said := map[Action]string{}
	for _, e := range everything().entries {
		s := e.Summary()
		if strings.ContainsAny(s, "\n\r") || strings.Contains(s, "unknown") || strings.Contains(s, "  ") || strings.Contains(s, "%!") {
			t.Errorf("%s: %q", e.Action, s)
		}
		if _, ok := said[e.Action]; !ok || e.Plan[0]+e.Plan[7] != 0 {
			said[e.Action] = s
		}
	}
	if len(phrases) != len(rules) || len(said) != len(rules) {
		t.Errorf("%d phrases and %d sentences for %d actions", len(phrases), len(said), len(rules))
	}
	for a, want := range map[Action]string{
		KeyCreated:    "anna created key pay (ec-p256, for sign,verify, pool default)",
		PlanApproved:  "bert approved plan ",
		RoleGiven:     "keyway gave the role key-manager to person anna",
		LoginRefused:  "dan@example.com was refused to log in to node n1: disabled",
		GrantGiven:    "anna gave grant 1 to client app: sign with keys pay-*",
		KEKInstalled:  "keyway installed KEK pool/default at default/m1 with check value 010203",
		StateChanged:  "anna moved key pay version 1 from deactivated to destroyed (destroy) under plan ",
		JobFinished:   " to remove at site-b under plan ",
		MemberDrained: "anna drained member default/m1",
	} {
		if !strings.Contains(said[a], want) {
			t.Errorf("%s: %q, want something with %q", a, said[a], want)
		}
	}
	e := sample()
	e.Outcome = Failed
	if got, want := e.Summary(), `anna@example.com failed to move key pay version 2 from active to suspended (suspend): the "old" \ one, größer`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSummariesAreOneLine(t *testing.T) {
	forEachAction(t, func(t *rapid.T, a Action) {
		if s := drawEntry(t, a).Summary(); s == "" || strings.ContainsAny(s, "\n\r\x00") {
			t.Fatalf("%q", s)
		}
	})
}
