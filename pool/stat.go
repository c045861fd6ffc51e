package pool

import "time"

// State is a member's state.
type State string

// The states of a member: joining → active ⇄ ejected, active → draining → drained, and latched (PIN trouble).
const (
	Joining  State = "joining"
	Active   State = "active"
	Ejected  State = "ejected"
	Draining State = "draining"
	Drained  State = "drained"
	Latched  State = "latched"
)

var states = [...]State{Joining, Active, Ejected, Draining, Drained, Latched}

// Stat is a snapshot of a pool.
type Stat struct {
	Pool    string       `json:"pool"`
	Members []MemberStat `json:"members"`
	// Ready: some member proved able within the last 10 s.
	Ready      bool   `json:"ready"`
	Operations uint64 `json:"operations"`
	Retries    uint64 `json:"retries"`
	Overloaded uint64 `json:"overloaded"`
}

// MemberStat is a snapshot of a member. Counters start at 0 when the member is added.
type MemberStat struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Reason is why the member is not active, for people.
	Reason  string `json:"reason,omitempty"`
	Breaker string `json:"breaker"`
	// PID is the worker process, 0 when the token is in this process or not open.
	PID    int    `json:"pid,omitempty"`
	Token  string `json:"token,omitempty"`
	Serial string `json:"serial,omitempty"`
	// Manufacturer and Model are what the open token says; with Serial they name it.
	Manufacturer string `json:"manufacturer,omitempty"`
	Model        string `json:"model,omitempty"`
	Epoch        uint64 `json:"epoch"`
	// Sessions are open. While the member joins they are those of Wanted that are open already.
	Sessions int `json:"sessions"`
	Wanted   int `json:"sessions_wanted,omitempty"`
	// Doing is what a member that joins does now, for people; "" between two attempts, after which Reason tells.
	Doing string `json:"doing,omitempty"`
	// SlowStart: the member (re)joined a moment ago and gets less than its share.
	SlowStart bool `json:"slow_start,omitempty"`
	// Permits is how many operations may run at once: the sessions, or fewer after the token said that it is busy.
	Permits    int    `json:"permits"`
	Busy       int    `json:"busy"`
	Queued     int    `json:"queued"`
	QueueLimit int    `json:"queue_limit"`
	Handles    int    `json:"handles"`
	Operations uint64 `json:"operations"`
	Failures   uint64 `json:"failures"`
	Loads      uint64 `json:"handle_loads"`
	Evictions  uint64 `json:"handle_evictions"`
	// Unusable counts operations that failed because the member lacks the key or the mechanism, or holds something else in its place.
	Unusable uint64 `json:"unusable_keys"`
	// Slow counts operations whose callers were sent on to another member, Hung those that ran over their limit.
	Slow         uint64        `json:"slow"`
	Hung         uint64        `json:"hung"`
	Respawns     uint64        `json:"respawns"`
	Latency      time.Duration `json:"latency_ns"`
	LastCanary   time.Time     `json:"last_canary,omitzero"`
	LastCanaryOK bool          `json:"last_canary_ok"`
}
