package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"keyway/hsm"
	"keyway/pool"
)

// MembershipConfig configures a Membership.
type MembershipConfig struct {
	Store    Store
	Pool     *pool.Pool
	PoolName string
	KEK      *KEK     // the pool's KEK
	Custody  *Custody // nil: members must hold the pool KEK already
	// Open returns how a member's token is opened.
	Open func(MemberRecord) func(context.Context) (hsm.Token, error)
	// Stats returns the statistics of every pool of this process, so that a token is one member only. Default: this pool's.
	Stats func() []pool.Stat
	Log   *slog.Logger
}

// Membership keeps the stored members of a pool and the pool itself in step. It is safe for concurrent use.
type Membership struct {
	cfg MembershipConfig
	mu  sync.Mutex // one change at a time: the store and the pool change together

	applied map[string]MemberRecord  // what each member of the pool was last made after
	moving  map[string]chan struct{} // members that leave, in the background; closed when the last order so far is done
	life    context.Context          // of what goes on in the background
	end     context.CancelFunc
	work    sync.WaitGroup

	trying chan struct{} // holds one value while a member is tried
	pins   badPINs
	saidMu sync.Mutex
	said   map[string][]string // members that are tried now: what was found so far

	vouchMu sync.Mutex
	vouched map[string]bool // members whose latch was cleared and that have not been opened since
}

// NewMembership returns a Membership; Load fills the pool.
func NewMembership(cfg MembershipConfig) *Membership {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Membership{cfg: cfg, vouched: map[string]bool{}, applied: map[string]MemberRecord{}, moving: map[string]chan struct{}{}, trying: make(chan struct{}, 1), said: map[string][]string{}}
	m.life, m.end = context.WithCancel(context.Background())
	return m
}

// Load adds every stored member to the pool.
func (m *Membership) Load(ctx context.Context) error {
	records, err := m.Records(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		err = errors.Join(err, m.add(r))
	}
	return err
}

// Records returns the stored members, by name.
func (m *Membership) Records(ctx context.Context) (out []MemberRecord, err error) {
	err = m.cfg.Store.View(ctx, func(tx Tx) error { out, err = tx.Members(m.cfg.PoolName); return err })
	return out, err
}

func (m *Membership) member(r MemberRecord) pool.MemberConfig {
	open := m.cfg.Open(r)
	c := pool.MemberConfig{
		Name: r.Name, Open: func(ctx context.Context) (hsm.Token, error) { return open(m.vouchOnce(ctx, r.Name)) }, KEK: m.cfg.KEK.ID[:], Sessions: r.Sessions, Queue: r.Queue, Handles: r.Handles, MaxMemory: r.MaxMemory,
		Latched: r.Latched, Drained: r.Drained, OnLatch: m.storeLatch,
	}
	if m.cfg.Custody != nil {
		c.Provision = m.cfg.Custody.Provision(m.cfg.PoolName, r.Name)
	}
	return c
}

// vouchOnce returns ctx, for the first opening after an operator has cleared the member's latch as one that vouches for the PIN.
func (m *Membership) vouchOnce(ctx context.Context, name string) context.Context {
	m.vouchMu.Lock()
	defer m.vouchMu.Unlock()
	if !m.vouched[name] {
		return ctx
	}
	delete(m.vouched, name)
	return hsm.Vouched(ctx)
}

// storeLatch makes a latch outlive this process.
func (m *Membership) storeLatch(name, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := m.change(ctx, "", name, func(r *MemberRecord) {
		r.Latched = reason
		m.pins.latched(*r) // nor is it tried again when the member is removed and added anew
	})
	if err != nil {
		m.cfg.Log.Error("the latch could not be stored and would not survive a restart", "member", name, "error", err)
	}
}

// change changes a stored member. When f changes nothing, nothing is stored.
func (m *Membership) change(ctx context.Context, actor, name string, f func(*MemberRecord)) error {
	return changeMember(ctx, m.cfg.Store, actor, m.cfg.PoolName, name, f)
}

// Stat returns the pool's statistics.
func (m *Membership) Stat() pool.Stat { return m.cfg.Pool.Stat() }
