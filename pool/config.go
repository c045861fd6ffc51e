package pool

import (
	"context"
	"log/slog"
	"time"

	"keyway/hsm"
)

// Config configures a Pool. Zero values choose what is written at each field.
type Config struct {
	// Name appears in logs and metrics.
	Name string
	// Log receives one line per change of state of a member. Default: discard.
	Log *slog.Logger
	// OpTimeout is how long one operation may run in a session before it is given up as hung. Default 10 s. Callers
	// do not wait that long: when half of a caller's time is over and another member is able, it is sent on.
	OpTimeout time.Duration
	// BulkTimeout is the same for the work of With, which may make keys. Default 1 min, at least OpTimeout.
	BulkTimeout time.Duration
	// JoinTimeout is how long a member may take to open its token and its sessions. Default 1 min.
	JoinTimeout time.Duration
	// CanaryEvery is how often each member is probed while nothing else proves it able. Default 5 s, at most 10 s.
	CanaryEvery time.Duration
	// RestartAfter is for how long a member's canaries must have failed, with its breaker open, before its worker is replaced by a
	// new one; it has no effect on a token in this process. Default 1 min.
	RestartAfter time.Duration
	// RetryRatio is the share of requests that may be retried on another member. Default 0.2, with
	// a floor of 10 retries a second so that a quiet pool may always fail over.
	RetryRatio float64
	// Attempts is the largest number of members whose tokens are asked for one operation. Default 3.
	Attempts int
	// Hedge is how long a caller waits for one member before it is sent on to another, within the retry budget, to cut off the
	// slowest answers; what the first member answers later is thrown away. Default 0: when the operation runs for five times as
	// long as 99 of 100 of its sort do on that member, at least 50 ms, and another member answers meanwhile. Whatever is
	// written, no later than when half of the caller's time is over.
	Hedge time.Duration
	// VerifyAll verifies every signature with the key's public half before its caller sees it, which costs this process as much
	// CPU time as that takes. Without it only the first one of each newly loaded handle is verified.
	VerifyAll bool
	// SlowStart is how long a member that (re)joined gets less than its share. Default 2 s.
	SlowStart time.Duration
}

// MemberConfig describes a member.
type MemberConfig struct {
	// Name is unique in the pool (key.CheckName).
	Name string
	// Open finds, opens and logs in the member's token. It is called when the member joins and after each loss,
	// with back-off, never twice at once, and never again after it returned a Locked fault until
	// an operator calls ClearLatch.
	Open func(context.Context) (hsm.Token, error)
	// KEK is the CKA_ID of the pool KEK, the AES key under which working keys travel; nil for a member that needs none.
	KEK []byte
	// Provision is called with a session when the token does not hold the KEK; it puts it there. Nil: such a member is refused.
	Provision func(context.Context, hsm.Keeper) error
	// Sessions is how many operations run at once. Default: what the token's profile says, else 16, never above the token's limit.
	Sessions int
	// Queue is how many operations may wait. Default 64 for each session.
	Queue int
	// Handles is how many loaded keys are kept. Default: what the token's profile says, else 1,024.
	Handles int
	// MaxMemory is the resident memory, in bytes, at which the member's worker is replaced while another member serves. 0 for no
	// limit; it has no effect on a token in this process.
	MaxMemory int64
	// Latched, when not empty, is why the member must not log in: it joins latched. It is how a latch survives a restart.
	Latched string
	// Drained: the member joins drained and is opened only by Resume.
	Drained bool
	// OnLatch is told, once, when the member latches, so that the latch can be stored. It must not call the pool.
	OnLatch func(member, reason string)
}
