package audit

import "fmt"

// Action says what was done. The vocabulary is closed: a reader that meets an action it does not know rejects the
// entry, so that nothing is overlooked.
type Action string

// The actions.
const (
	LogBegun Action = "log-begun" // entry 0: the log of an installation
	Adopted  Action = "adopted"   // directly after it: what was there before the log

	KeyCreated       Action = "key-created"
	VersionInserted  Action = "version-inserted"
	VersionGenerated Action = "version-generated"
	StateChanged     Action = "state-changed"
	MaterialErased   Action = "material-erased"
	PeriodsSet       Action = "periods-set"
	PrimarySet       Action = "primary-set"

	PlanMade     Action = "plan-made"
	PlanApproved Action = "plan-approved"
	PlanRejected Action = "plan-rejected"
	PlanExecuted Action = "plan-executed" // its first step begins; steps name the plan
	PlanExpired  Action = "plan-expired"
	JobFinished  Action = "job-finished"

	KEKMade      Action = "kek-made"
	KEKInstalled Action = "kek-installed"
	KEKForgotten Action = "kek-forgotten" // nothing can be sent under it any more; what tokens hold stays there

	MemberAdded   Action = "member-added"
	MemberChanged Action = "member-changed"
	MemberDrained Action = "member-drained"
	MemberResumed Action = "member-resumed"
	MemberRemoved Action = "member-removed"
	MemberLatched Action = "member-latched"
	LatchCleared  Action = "latch-cleared"

	ClientCreated  Action = "client-created"
	ClientChanged  Action = "client-changed" // the details are the client as it is now
	ClientDeleted  Action = "client-deleted"
	TokenIssued    Action = "token-issued" // every earlier token is void
	GrantGiven     Action = "grant-given"
	GrantWithdrawn Action = "grant-withdrawn"

	PersonCreated    Action = "person-created"
	PersonChanged    Action = "person-changed" // of credentials; the details are those valid now
	PersonDisabled   Action = "person-disabled"
	PersonEnabled    Action = "person-enabled"
	RoleGiven        Action = "role-given"
	RoleWithdrawn    Action = "role-withdrawn"
	LoginRefused     Action = "login-refused"
	CheckpointSigned Action = "checkpoint-signed"
	ExportMade       Action = "export-made"
	LogRead          Action = "log-read"
	BackupMade       Action = "backup-made"
	BackupRestored   Action = "backup-restored"
	ConfigChanged    Action = "config-changed"
	NodeStarted      Action = "node-started" // public is the key that the node signs checkpoints with
	NodeStopped      Action = "node-stopped"
	LeaseTaken       Action = "lease-taken"
)

// ObjectKind says what an entry is about.
type ObjectKind string

// The kinds of objects.
const (
	KindLog     ObjectKind = "log"
	KindKey     ObjectKind = "key"
	KindVersion ObjectKind = "version" // name of the key, number of the version
	KindPlan    ObjectKind = "plan"
	KindJob     ObjectKind = "job"
	KindKEK     ObjectKind = "kek"    // kind/name: pool/default, root/default/m1
	KindMember  ObjectKind = "member" // pool/name
	KindClient  ObjectKind = "client"
	KindGrant   ObjectKind = "grant" // its number
	KindPerson  ObjectKind = "person"
	KindBackup  ObjectKind = "backup"
	KindConfig  ObjectKind = "config"
	KindNode    ObjectKind = "node"
)

// parts says which fields name an object of each kind.
var parts = map[ObjectKind]struct{ name, number, id bool }{
	KindLog: {name: true}, KindKey: {name: true, id: true}, KindVersion: {name: true, number: true, id: true},
	KindPlan: {id: true}, KindJob: {id: true}, KindKEK: {name: true, id: true}, KindMember: {name: true},
	KindClient: {name: true}, KindGrant: {number: true}, KindPerson: {name: true},
	KindBackup: {name: true}, KindConfig: {name: true}, KindNode: {name: true},
}

// rule is what an entry of one action looks like.
type rule struct {
	kind ObjectKind // "" for any kind that has a state
	must []string   // details that are always written
	may  []string   // details that are written when they are not zero
}

// shapes says which details describe the state of each kind of object: those of facts and of adopted objects. A kind that
// is not here has no state.
var shapes = map[ObjectKind]rule{
	KindKey:     {must: []string{"algorithm", "pool", "primary", "usages"}},
	KindVersion: {must: []string{"state"}, may: []string{"erased", "generated", "kcv", "not_before", "originator_end", "public", "recipient_end"}},
	KindKEK:     {may: []string{"kcv"}},
	KindMember:  {must: []string{"config"}, may: []string{"drained", "latched"}},
	KindClient:  clientShape,
	KindGrant:   grantShape,
	KindPerson:  {may: []string{"certificates", "disabled", "roles", "tokens"}},
	KindPlan:    {must: []string{"approvals", "command", "hash", "requester", "status"}, may: []string{"approvers", "expires"}},
}

var (
	clientShape = rule{may: []string{"burst", "certificates", "disabled", "groups", "rate", "tokens"}}
	grantShape  = rule{must: []string{"pattern", "usages"}, may: []string{"client", "group"}}
	reasonOnly  = []string{"reason"}
)

// rules has one row for each action.
var rules = map[Action]rule{
	LogBegun: {KindLog, []string{"origin"}, reasonOnly},
	Adopted:  {"", nil, nil}, // the shape of its object

	KeyCreated:       {KindKey, []string{"algorithm", "pool", "usages"}, nil},
	VersionInserted:  {KindVersion, nil, []string{"not_before", "originator_end", "recipient_end"}},
	VersionGenerated: {KindVersion, nil, []string{"kcv", "public"}},
	StateChanged:     {KindVersion, []string{"event", "from", "to"}, reasonOnly},
	MaterialErased:   {KindVersion, nil, reasonOnly},
	PeriodsSet:       {KindVersion, nil, []string{"not_before", "originator_end", "reason", "recipient_end"}},
	PrimarySet:       {KindKey, []string{"primary"}, nil},

	PlanMade:     {KindPlan, []string{"approvals", "command", "hash"}, []string{"expires", "reason"}},
	PlanApproved: {KindPlan, []string{"hash"}, reasonOnly},
	PlanRejected: {KindPlan, []string{"hash"}, reasonOnly},
	PlanExecuted: {KindPlan, []string{"hash"}, nil},
	PlanExpired:  {KindPlan, nil, nil},
	JobFinished:  {KindJob, []string{"command"}, []string{"count", "reason", "target"}},

	KEKMade:      {KindKEK, []string{"kcv"}, nil},
	KEKInstalled: {KindKEK, []string{"kcv", "member"}, nil},
	KEKForgotten: {KindKEK, nil, reasonOnly},

	MemberAdded:   {KindMember, []string{"config", "driver"}, reasonOnly},
	MemberChanged: {KindMember, []string{"config"}, reasonOnly},
	MemberDrained: {KindMember, nil, reasonOnly},
	MemberResumed: {KindMember, nil, reasonOnly},
	MemberRemoved: {KindMember, nil, reasonOnly},
	MemberLatched: {KindMember, nil, reasonOnly},
	LatchCleared:  {KindMember, nil, reasonOnly},

	ClientCreated:  {KindClient, nil, clientShape.may},
	ClientChanged:  {KindClient, nil, clientShape.may},
	ClientDeleted:  {KindClient, nil, reasonOnly},
	TokenIssued:    {KindClient, []string{"tokens"}, nil},
	GrantGiven:     {KindGrant, grantShape.must, grantShape.may},
	GrantWithdrawn: {KindGrant, nil, reasonOnly},

	PersonCreated:  {KindPerson, nil, []string{"certificates", "tokens"}},
	PersonChanged:  {KindPerson, nil, []string{"certificates", "tokens"}},
	PersonDisabled: {KindPerson, nil, reasonOnly},
	PersonEnabled:  {KindPerson, nil, reasonOnly},
	RoleGiven:      {KindPerson, []string{"role"}, reasonOnly},
	RoleWithdrawn:  {KindPerson, []string{"role"}, reasonOnly},
	LoginRefused:   {KindNode, nil, reasonOnly},

	CheckpointSigned: {KindLog, []string{"root", "size"}, []string{"signers"}},
	ExportMade:       {KindLog, []string{"root", "size"}, []string{"start"}},
	LogRead:          {KindLog, []string{"count", "start"}, reasonOnly},
	BackupMade:       {KindBackup, []string{"hash"}, []string{"size"}},
	BackupRestored:   {KindBackup, []string{"hash", "size"}, reasonOnly},
	ConfigChanged:    {KindConfig, []string{"hash"}, reasonOnly},
	NodeStarted:      {KindNode, nil, []string{"public", "reason"}},
	NodeStopped:      {KindNode, nil, reasonOnly},
	LeaseTaken:       {KindNode, []string{"epoch"}, nil},
}

// ruleOf returns what an entry of a about an object of kind looks like.
func ruleOf(a Action, kind ObjectKind) (rule, error) {
	r, ok := rules[a]
	if !ok {
		return rule{}, fmt.Errorf("unknown action %q", string(a))
	}
	if r.kind == "" {
		shape, ok := shapes[kind]
		if !ok {
			return rule{}, fmt.Errorf("%s: a %q has no state", a, string(kind))
		}
		return shape, nil
	}
	if r.kind != kind {
		return rule{}, fmt.Errorf("%s is about a %s, not about a %q", a, r.kind, string(kind))
	}
	return r, nil
}

// Actions returns every action, in the order of their names.
func Actions() []Action { return sortedKeys(rules) }
