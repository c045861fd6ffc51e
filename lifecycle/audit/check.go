package audit

// Check names what was looked at when something was found.
type Check string

// The checks.
const (
	CheckForm         Check = "bundle-form"
	CheckDamage       Check = "bundle-damaged"
	CheckOrigin       Check = "origin"
	CheckEncoding     Check = "encoding"
	CheckSequence     Check = "sequence"
	CheckTime         Check = "time"
	CheckRoot         Check = "checkpoint-root"
	CheckSignature    Check = "signature"
	CheckRequired     Check = "required-signature"
	CheckFresh        Check = "fresh"
	CheckTail         Check = "unsigned-tail"
	CheckEarlier      Check = "earlier-checkpoint"
	CheckSigned       Check = "signed-checkpoint"
	CheckUnknown      Check = "unknown-object"
	CheckDuplicate    Check = "duplicate"
	CheckTransition   Check = "transition"
	CheckGeneration   Check = "generation"
	CheckErasure      Check = "erasure"
	CheckPrimary      Check = "primary"
	CheckKCV          Check = "kcv"
	CheckPlan         Check = "plan"
	CheckSelfApproval Check = "self-approval"
	CheckApprovals    Check = "approvals"
	CheckRole         Check = "role"
	CheckDisabled     Check = "disabled"
	CheckState        Check = "state"
)

// meanings say what a failure of each check means to somebody who did not build this.
var meanings = map[Check]string{
	CheckForm:         "The file is not a bundle as Keyway writes it. It was edited, or is another kind of file.",
	CheckDamage:       "The file is not complete or not as it was written: it was cut off, damaged on its way, or edited.",
	CheckOrigin:       "Parts of the file belong to different logs.",
	CheckEncoding:     "An entry is not in the one form in which it may be written. Keyway writes no such entry, so somebody else wrote or changed it.",
	CheckSequence:     "An entry is missing, doubled or out of place: entries were removed, repeated or reordered.",
	CheckTime:         "The clock of a node went back, or entries were written with times of their writer's choosing.",
	CheckRoot:         "The entries are not those that were signed: at least one was changed, removed, added or moved before this checkpoint.",
	CheckSignature:    "The checkpoint was not signed by the key it names, or it was changed after it had been signed.",
	CheckRequired:     "A signature that you demand is missing from the last checkpoint: whoever made it may not have had that key.",
	CheckFresh:        "Nobody outside vouches that the log is as recent as you want: its end may have been cut off.",
	CheckTail:         "Entries after the last checkpoint are vouched for by nobody.",
	CheckEarlier:      "The log is not a continuation of the one you saw before: entries you could have seen were changed or removed, or the database was restored from an older backup.",
	CheckSigned:       "The log says of itself that another checkpoint was signed than its entries give: a part of it was written anew.",
	CheckUnknown:      "An entry is about something that does not exist at that point: the entry that made it was removed, or this one was invented.",
	CheckDuplicate:    "Something was made twice: an entry was repeated or invented.",
	CheckTransition:   "A key version moved in a way that the key states of NIST SP 800-57 do not allow, or from a state it was not in.",
	CheckGeneration:   "A key version was used before its material existed, or its material was replaced.",
	CheckErasure:      "A version counts as destroyed while its material may still exist, or the other way round.",
	CheckPrimary:      "The version that protects new data is not one that may.",
	CheckKCV:          "A key-encrypting key arrived as another one than was sent: it was replaced on its way.",
	CheckPlan:         "Something was done under a plan that did not permit it at that time.",
	CheckSelfApproval: "Dual control was broken: a person approved their own request.",
	CheckApprovals:    "Dual control was broken: a plan was carried out without the approvals it needs.",
	CheckRole:         "Separation of duties was broken: a person had or used a role they must not have.",
	CheckDisabled:     "An identity that had been taken out of use was used.",
	CheckState:        "The state that the system shows is not the one that follows from the log: it was changed without an entry, or its description was edited.",
}
