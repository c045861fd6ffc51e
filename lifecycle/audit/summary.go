package audit

import (
	"fmt"
	"strings"

	"keyway/lifecycle/key"
)

// phrase is how an action is told.
type phrase struct {
	past, plain string // created, create
	rest        func(e *Entry) string
}

var phrases = map[Action]phrase{
	LogBegun: {"began", "begin", func(e *Entry) string { return fmt.Sprintf("the log %s", e.Details.Origin) }},
	Adopted:  {"took over", "take over", func(e *Entry) string { return e.Object.String() + " as it was before the log" }},

	KeyCreated: {"created", "create", func(e *Entry) string {
		return fmt.Sprintf("%s (%s, for %s, pool %s)", e.Object, e.Details.Algorithm, e.Details.Usages, e.Details.Pool)
	}},
	VersionInserted:  {"recorded", "record", about},
	VersionGenerated: {"generated", "generate", about},
	StateChanged: {"moved", "move", func(e *Entry) string {
		return fmt.Sprintf("%s from %s to %s (%s)", e.Object, e.Details.From, e.Details.To, e.Details.Event)
	}},
	MaterialErased: {"erased the material of", "erase the material of", about},
	PeriodsSet:     {"set the cryptoperiods of", "set the cryptoperiods of", about},
	PrimarySet: {"changed", "change", func(e *Entry) string {
		if e.Details.Primary == 0 {
			return e.Object.String() + " to have no primary version"
		}
		return fmt.Sprintf("%s to have version %d as its primary one", e.Object, e.Details.Primary)
	}},

	PlanMade: {"made", "make", func(e *Entry) string {
		return fmt.Sprintf("%s to %s, which needs %d approvals", e.Object, e.Details.Command, e.Details.Approvals)
	}},
	PlanApproved: {"approved", "approve", about},
	PlanRejected: {"rejected", "reject", about},
	PlanExecuted: {"began to execute", "execute", about},
	PlanExpired:  {"let expire", "let expire", about},
	JobFinished: {"finished", "finish", func(e *Entry) string {
		s := fmt.Sprintf("%s to %s", e.Object, e.Details.Command)
		if e.Details.Target != "" {
			s += " at " + string(e.Details.Target)
		}
		return s
	}},

	KEKMade: {"made", "make", func(e *Entry) string { return fmt.Sprintf("%s with check value %s", e.Object, e.Details.KCV) }},
	KEKInstalled: {"installed", "install", func(e *Entry) string {
		return fmt.Sprintf("%s at %s with check value %s", e.Object, e.Details.Member, e.Details.KCV)
	}},
	KEKForgotten: {"forgot", "forget", about},

	MemberAdded:   {"added", "add", func(e *Entry) string { return fmt.Sprintf("%s (driver %s)", e.Object, e.Details.Driver) }},
	MemberChanged: {"changed", "change", about},
	MemberDrained: {"drained", "drain", about},
	MemberResumed: {"resumed", "resume", about},
	MemberRemoved: {"removed", "remove", about},
	MemberLatched: {"latched", "latch", about},
	LatchCleared:  {"cleared the latch of", "clear the latch of", about},

	ClientCreated: {"created", "create", about},
	ClientChanged: {"changed", "change", about},
	ClientDeleted: {"deleted", "delete", about},
	TokenIssued:   {"issued a token for", "issue a token for", about},
	GrantGiven: {"gave", "give", func(e *Entry) string {
		who := "client " + e.Details.Client
		if e.Details.Group != "" {
			who = "group " + e.Details.Group
		}
		return fmt.Sprintf("%s to %s: %s with keys %s", e.Object, who, e.Details.Usages, e.Details.Pattern)
	}},
	GrantWithdrawn: {"withdrew", "withdraw", about},

	PersonCreated:  {"created", "create", about},
	PersonChanged:  {"changed the credentials of", "change the credentials of", about},
	PersonDisabled: {"disabled", "disable", about},
	PersonEnabled:  {"enabled", "enable", about},
	RoleGiven:      {"gave", "give", func(e *Entry) string { return fmt.Sprintf("the role %s to %s", e.Details.Role, e.Object) }},
	RoleWithdrawn:  {"withdrew", "withdraw", func(e *Entry) string { return fmt.Sprintf("the role %s from %s", e.Details.Role, e.Object) }},
	LoginRefused:   {"logged in", "log in", func(e *Entry) string { return fmt.Sprintf("to %s", e.Object) }},

	CheckpointSigned: {"signed", "sign", func(e *Entry) string { return fmt.Sprintf("the checkpoint of %d entries", e.Details.Size) }},
	ExportMade: {"exported", "export", func(e *Entry) string {
		return fmt.Sprintf("the log from entry %d to %d", e.Details.Start, e.Details.Size-1)
	}},
	LogRead: {"read", "read", func(e *Entry) string {
		return fmt.Sprintf("%d entries of the log from %d on", e.Details.Count, e.Details.Start)
	}},
	BackupMade:     {"made", "make", about},
	BackupRestored: {"restored", "restore", func(e *Entry) string { return fmt.Sprintf("%s, with a log of %d entries", e.Object, e.Details.Size) }},
	ConfigChanged:  {"changed", "change", about},
	NodeStarted:    {"started", "start", about},
	NodeStopped:    {"stopped", "stop", about},
	LeaseTaken:     {"took the lease for", "take the lease for", func(e *Entry) string { return fmt.Sprintf("%s, epoch %d", e.Object, e.Details.Epoch) }},
}

func about(e *Entry) string { return e.Object.String() }

// Summary tells the entry in one line of English, for lists. It says who, what, to what, under which plan and why; times and
// sequence numbers are left to the columns beside it.
func (e *Entry) Summary() string {
	p, ok := phrases[e.Action]
	if !ok {
		return fmt.Sprintf("%s did something unknown: %s", e.Actor.Name, e.Action)
	}
	var b strings.Builder
	b.WriteString(string(e.Actor.Name))
	switch e.Outcome {
	case Done:
		b.WriteString(" " + p.past + " ")
	case Refused:
		b.WriteString(" was refused to " + p.plain + " ")
	default:
		b.WriteString(" failed to " + p.plain + " ")
	}
	b.WriteString(p.rest(e))
	if e.Plan != (key.ID{}) {
		fmt.Fprintf(&b, " under plan %s", e.Plan)
	}
	if e.Details.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Details.Reason)
	}
	return b.String()
}
