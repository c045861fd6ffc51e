package lifecycle

import (
	"errors"
	"time"
)

// ErrClaimLost: the claim on a job ran out and somebody else claimed it, or it was finished. What came of it is not recorded.
var ErrClaimLost = errors.New("the claim on the job was lost")

// JobState is where a job is.
type JobState string

// The states. A job that is done or dead is finished, and no longer holds up its target.
const (
	JobWaiting JobState = "waiting"
	JobClaimed JobState = "claimed"
	JobDone    JobState = "done"
	JobDead    JobState = "dead" // given up; a person must look at it
)

// NewJob is a job as it is put into the outbox, in the transaction that makes it necessary.
type NewJob struct {
	// Target is what the job is for; jobs of one target run one after the other, in the order in which they were put in.
	Target string
	Kind   string
	// Payload is the job's own; nothing secret may be in it but wrapped.
	Payload []byte
	// NotBefore is the earliest time, by the database's clock; zero is at once.
	NotBefore time.Time
}

// Job is a job in the outbox.
type Job struct {
	NewJob
	ID    int64
	State JobState
	// Attempts counts how often it was claimed, this time included.
	Attempts int
	// Unknown: an attempt before this one may have had its effect, because its outcome is not known or because whoever had claimed it is
	// gone. Look at the target before doing it again.
	Unknown bool
	// Said is what came of the last attempt.
	Said    string
	Created time.Time
	// Finished is when it was done or given up, zero before.
	Finished time.Time
	// Lease is the epoch of the lease that it was claimed under last.
	Lease uint64
}

// JobResult is what came of an attempt.
type JobResult uint8

// The results.
const (
	JobSucceeded JobResult = iota + 1
	JobFailed              // it had no effect, and none before it had; it is tried again
	JobUnclear             // its effect is not known; it is tried again after a look
	JobGivenUp             // it is dead
)

// JobOutcome ends an attempt.
type JobOutcome struct {
	Result JobResult
	// After is how long to wait before the next attempt, computed by the caller: back-off with jitter.
	After time.Duration
	// Said tells a person about it; nothing secret.
	Said string
}
