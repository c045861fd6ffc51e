package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
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
	Log  *slog.Logger
}

// Membership keeps the stored members of a pool and the pool itself in step. It is safe for concurrent use.
type Membership struct {
	cfg MembershipConfig
	mu  sync.Mutex // one change at a time: the store and the pool change together

	applied map[string]MemberRecord // what each member of the pool was last made after
	moving  map[string]bool         // members that leave, in the background
	stop    context.CancelFunc      // ends following; nil when nobody follows
	work    sync.WaitGroup

	vouchMu sync.Mutex
	vouched map[string]bool // members whose latch was cleared and that have not been opened since
}

// NewMembership returns a Membership; Load fills the pool.
func NewMembership(cfg MembershipConfig) *Membership {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Membership{cfg: cfg, vouched: map[string]bool{}, applied: map[string]MemberRecord{}, moving: map[string]bool{}}
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
	if err := m.change(ctx, name, func(r *MemberRecord) { r.Latched = reason }); err != nil {
		m.cfg.Log.Error("the latch could not be stored and would not survive a restart", "member", name, "error", err)
	}
}

func (m *Membership) change(ctx context.Context, name string, f func(*MemberRecord)) error {
	return m.cfg.Store.Update(ctx, func(tx Tx) error {
		all, err := tx.Members(m.cfg.PoolName)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Name == name {
				f(&r)
				return tx.PutMember(r)
			}
		}
		return fmt.Errorf("member %s of pool %s: %w", name, m.cfg.PoolName, key.ErrNotFound)
	})
}

// Check writes what r.URI says into r's other fields and returns an error that names every field that is wrong.
func (r *MemberRecord) Check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if err := key.CheckName(r.Name); err != nil {
		bad("name: %w", err)
	}
	if r.URI != "" {
		errs = append(errs, r.expandURI()...)
	}
	switch r.Driver {
	case "pkcs11":
		if !filepath.IsAbs(r.Module) {
			bad("module: give the absolute path of the PKCS#11 library, not %q", r.Module)
		}
		if r.TokenLabel == "" && r.TokenSerial == "" {
			bad("token_label or token_serial: say which token of the library it is")
		}
	case "soft":
		if !filepath.IsAbs(r.TokenDir) {
			bad("token_dir: give the absolute path of the embedded token's directory, not %q", r.TokenDir)
		}
	default:
		bad("driver: use pkcs11 or soft, not %q", r.Driver)
	}
	if !filepath.IsAbs(r.PINFile) {
		bad("pin_file: give the absolute path of a file with the PIN, not %q", r.PINFile)
	}
	if r.Isolation != "" && r.Isolation != "worker" && r.Isolation != "none" {
		bad("isolation: use worker or none, not %q", r.Isolation)
	}
	if r.Sessions < 0 || r.Queue < 0 || r.Handles < 0 || r.MaxMemory < 0 {
		bad("sessions, queue, handles and max_memory must not be negative")
	}
	return errors.Join(errs...)
}

// Add stores a member and adds it to the pool. It joins in the background; Stat tells how far it is.
func (m *Membership) Add(ctx context.Context, actor string, r MemberRecord) error {
	r.Pool = m.cfg.PoolName
	if err := r.Check(); err != nil {
		return fmt.Errorf("%w: member %s: %w", ErrInvalid, r.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.cfg.Store.Update(ctx, func(tx Tx) error {
		all, err := tx.Members(r.Pool)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.Name == r.Name {
				return fmt.Errorf("member %s of pool %s %w", r.Name, r.Pool, ErrExists)
			}
		}
		return tx.PutMember(r)
	})
	if err != nil {
		return err
	}
	if err := m.add(r); err != nil {
		undo := m.cfg.Store.Update(ctx, func(tx Tx) error { return tx.DeleteMember(r.Pool, r.Name) })
		return errors.Join(err, undo)
	}
	m.cfg.Log.InfoContext(ctx, "member added", "actor", actor, "pool", r.Pool, "member", r.Name)
	return nil
}

// Drain takes a member out of use; see pool.Pool.Drain. It is stored when it is decided, so that other gateways follow at once,
// and waits for the work that is under way here.
func (m *Membership) Drain(ctx context.Context, actor, name string, force bool) error {
	if err := m.beginDrain(ctx, name, force); err != nil {
		return err
	}
	err := m.cfg.Pool.Drain(ctx, name, true)
	if m.state(name) == pool.Drained {
		m.cfg.Log.InfoContext(ctx, "member drained", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	}
	return err
}

// beginDrain decides that a member goes, and stores it.
func (m *Membership) beginDrain(ctx context.Context, name string, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.cfg.Pool.BeginDrain(name, force); err != nil {
		return err
	}
	if err := m.change(context.WithoutCancel(ctx), name, func(r *MemberRecord) { r.Drained = true }); err != nil {
		return errors.Join(err, m.cfg.Pool.Resume(name)) // nothing was changed
	}
	return nil
}

// state returns the state of a member, "" for one that the pool does not have.
func (m *Membership) state(name string) pool.State {
	for _, s := range m.cfg.Pool.Stat().Members {
		if s.Name == name {
			return s.State
		}
	}
	return ""
}

// Resume takes a drained member into use again.
func (m *Membership) Resume(ctx context.Context, actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.cfg.Pool.Resume(name); err != nil {
		return err
	}
	m.cfg.Log.InfoContext(ctx, "member resumed", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	return m.change(ctx, name, func(r *MemberRecord) { r.Drained = false })
}

// ClearLatch lets a latched member log in once more, after a person has set its PIN right.
func (m *Membership) ClearLatch(ctx context.Context, actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Stored first: should the login fail again at once, its latch is stored after this.
	var clears int
	if err := m.change(ctx, name, func(r *MemberRecord) { r.Latched = ""; r.Clears++; clears = r.Clears }); err != nil {
		return err
	}
	m.cfg.Log.InfoContext(ctx, "latch cleared", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	was := m.applied[name]
	was.Latched, was.Clears = "", clears
	m.applied[name] = was
	return m.unlatch(name)
}

// unlatch lets a member log in once more, as one for whose PIN a person vouches.
func (m *Membership) unlatch(name string) error {
	if m.state(name) == pool.Latched {
		m.vouchMu.Lock()
		m.vouched[name] = true
		m.vouchMu.Unlock()
	}
	return m.cfg.Pool.ClearLatch(name)
}

// Remove drains a member and forgets it. Its token is left as it is. When it fails half-way the member is drained, and
// the same command once more goes on.
func (m *Membership) Remove(ctx context.Context, actor, name string, force bool) error {
	var late error
	if m.state(name) != pool.Latched { // which has no work, and cannot be drained
		if late = m.Drain(ctx, actor, name, force); m.state(name) != pool.Drained {
			return late
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx = context.WithoutCancel(ctx) // it has its own bounds, and half of it would be worse
	// The store first: a member that only the pool has is gone after the next start.
	if err := m.cfg.Store.Update(ctx, func(tx Tx) error { return tx.DeleteMember(m.cfg.PoolName, name) }); err != nil {
		return errors.Join(late, err)
	}
	m.cfg.Log.InfoContext(ctx, "member removed", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	return errors.Join(late, m.cfg.Pool.Remove(ctx, name, true))
}

// Stat returns the pool's statistics.
func (m *Membership) Stat() pool.Stat { return m.cfg.Pool.Stat() }
