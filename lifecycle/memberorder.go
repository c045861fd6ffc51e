package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyway/lifecycle/key"
	"keyway/pool"
)

// Order is what an operator says with the order to drain or to remove a member.
type Order struct {
	// Force: do it though nobody is left to serve.
	Force bool
	// NoWait: decide, store, and go on in the background.
	NoWait bool
	// ForgetToken: with the member its Root KEK is forgotten; see Remove.
	ForgetToken bool
}

// orderTime bounds what goes on in the background; work that is under way after it is given up.
const orderTime = 90 * time.Second

// Drain takes a member out of use; see pool.Pool.Drain. It is stored when it is decided, so that other gateways follow at once,
// and waits for the work that is under way here, unless told not to. Draining a drained member does nothing.
func (m *Membership) Drain(ctx context.Context, actor, name string, o Order) error {
	if err := m.beginDrain(ctx, actor, name, o.Force); err != nil {
		return err
	}
	if o.NoWait {
		m.later(ctx, name, func(ctx context.Context) error { return m.finishDrain(ctx, actor, name) })
		return nil
	}
	return m.finishDrain(ctx, actor, name)
}

// later goes on with an order in the background, one after the other for each member.
func (m *Membership) later(order context.Context, name string, f func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.move(name, func() {
		ctx, cancel := context.WithTimeout(sameAuth(m.life, order), orderTime)
		defer cancel()
		if err := f(ctx); err != nil && !errors.Is(err, pool.ErrClosed) {
			m.cfg.Log.Warn("an order to a member ended with an error", "pool", m.cfg.PoolName, "member", name, "error", err)
		}
	})
}

// move runs f in the background, after what was moving the member already. Until it has ended nobody follows the store in what it says
// of the member. The caller holds mu; f may take it.
func (m *Membership) move(name string, f func()) {
	before, done := m.moving[name], make(chan struct{})
	m.moving[name] = done
	m.work.Go(func() {
		if before != nil {
			<-before
		}
		f()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.moving[name] == done {
			delete(m.moving, name)
		}
		close(done)
	})
}

// finishDrain waits until a member whose drain was begun is drained.
func (m *Membership) finishDrain(ctx context.Context, actor, name string) error {
	err := m.cfg.Pool.Drain(ctx, name, true)
	if m.state(name) == pool.Drained {
		m.cfg.Log.InfoContext(ctx, "member drained", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	}
	return err
}

// beginDrain decides that a member goes, and stores it.
func (m *Membership) beginDrain(ctx context.Context, actor, name string, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Of one that is draining it was decided already, and the pool would answer only when it is drained.
	draining := m.state(name) == pool.Draining
	if !draining {
		if err := m.cfg.Pool.BeginDrain(name, force); err != nil {
			return err
		}
	}
	err := m.change(context.WithoutCancel(ctx), actor, name, func(r *MemberRecord) { r.Drained = true })
	if err != nil && !draining {
		return errors.Join(err, m.cfg.Pool.Resume(name)) // nothing was changed
	}
	return err
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

// Resume takes a drained member into use again. Resuming one that is not drained does nothing.
func (m *Membership) Resume(ctx context.Context, actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.cfg.Pool.Resume(name); err != nil {
		return err
	}
	m.cfg.Log.InfoContext(ctx, "member resumed", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	return m.change(ctx, actor, name, func(r *MemberRecord) { r.Drained = false })
}

// ClearLatch lets a latched member log in once more, after a person has set its PIN right. For one that is latched neither in the
// store nor here it does nothing.
func (m *Membership) ClearLatch(ctx context.Context, actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	latched := m.state(name) == pool.Latched
	// Stored first: should the login fail again at once, its latch is stored after this.
	var after MemberRecord
	err := m.change(ctx, actor, name, func(r *MemberRecord) {
		if r.Latched != "" || latched {
			r.Latched = ""
			r.Clears++
			latched = true
		}
		after = *r
	})
	if err != nil || !latched {
		return err
	}
	m.cfg.Log.InfoContext(ctx, "latch cleared", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	m.pins.forget(after)
	was := m.applied[name]
	was.Latched, was.Clears = "", after.Clears
	m.applied[name] = was
	if m.state(name) != pool.Latched {
		// Latched elsewhere: this gateway goes on, and may not even have heard of it.
		if err := m.cfg.Pool.ClearLatch(name); !errors.Is(err, pool.ErrMember) {
			return err
		}
		return nil
	}
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
//
// With ForgetToken its Root KEK is forgotten too: it is destroyed on the custody token and its record in the store, so that another
// token, or the same one emptied, may be added under the name. What the old token holds stays on it: one that still
// exists can still open the pool's keys. This is also for a member that is gone already.
func (m *Membership) Remove(ctx context.Context, actor, name string, o Order) error {
	state := m.state(name)
	if state == "" && o.ForgetToken {
		return m.forgetGone(ctx, actor, name)
	}
	if state == pool.Latched { // which has no work, and cannot be drained
		return m.finishRemove(ctx, actor, name, o, nil)
	}
	if err := m.beginDrain(ctx, actor, name, o.Force); err != nil {
		return err
	}
	finish := func(ctx context.Context) error {
		late := m.finishDrain(ctx, actor, name)
		if m.state(name) != pool.Drained {
			return late
		}
		return m.finishRemove(ctx, actor, name, o, late)
	}
	if o.NoWait {
		m.later(ctx, name, finish)
		return nil
	}
	return finish(ctx)
}

// finishRemove forgets a member that is drained or latched. late is what its drain could not wait for.
func (m *Membership) finishRemove(ctx context.Context, actor, name string, o Order, late error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTime) // half of it would be worse
	defer cancel()
	if o.ForgetToken { // first: after it failed the same order can be given again
		if err := m.forgetRoot(ctx, actor, name); err != nil && !errors.Is(err, key.ErrNotFound) {
			return errors.Join(late, fmt.Errorf("the Root KEK of member %s is not forgotten, and the member is drained but not removed: %w", name, err))
		}
	}
	// The store first: a member that only the pool has is gone after the next start.
	if err := m.cfg.Store.Update(ctx, func(tx Tx) error { return deleteMember(tx, by(ctx, actor), m.cfg.PoolName, name, "") }); err != nil {
		return errors.Join(late, err)
	}
	m.cfg.Log.InfoContext(ctx, "member removed", "actor", actor, "pool", m.cfg.PoolName, "member", name, "token_forgotten", o.ForgetToken)
	return errors.Join(late, m.cfg.Pool.Remove(ctx, name, true))
}

// forgetGone forgets the Root KEK of a member that was removed before.
func (m *Membership) forgetGone(ctx context.Context, actor, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	records, err := m.Records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Name == name {
			return fmt.Errorf("%w %s of pool %s was added elsewhere a moment ago: try again", pool.ErrMember, name, m.cfg.PoolName)
		}
	}
	err = m.forgetRoot(ctx, actor, name)
	if errors.Is(err, key.ErrNotFound) {
		return fmt.Errorf("pool %s has no member %s, and knows no token of that name: %w", m.cfg.PoolName, name, key.ErrNotFound)
	}
	if err == nil {
		m.cfg.Log.InfoContext(ctx, "token forgotten", "actor", actor, "pool", m.cfg.PoolName, "member", name)
	}
	return err
}

func (m *Membership) forgetRoot(ctx context.Context, actor, name string) error {
	name = m.cfg.PoolName + "/" + name
	if m.cfg.Custody != nil {
		return m.cfg.Custody.ForgetRoot(ctx, actor, name)
	}
	return m.cfg.Store.Update(ctx, func(tx Tx) error { return deleteRoot(tx, by(ctx, actor), name) })
}
