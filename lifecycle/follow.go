package lifecycle

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"keyway/pool"
)

// followDrain bounds how long a drain that was ordered elsewhere waits for the work that is under way here.
const followDrain = 30 * time.Second

// Follow begins to do here what the store says, after each change that it tells of and otherwise every so often: another gateway that
// shares it may have added, drained, resumed or removed members, or cleared a latch. Close ends it.
func (m *Membership) Follow(every time.Duration) {
	ctx := m.life
	m.work.Go(func() {
		said := ""
		everyChange(ctx, m.cfg.Store, every, func() {
			// A store that does not answer changes nothing here; each new trouble is told once.
			if err := m.Reconcile(ctx); err == nil {
				said = ""
			} else if ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				m.cfg.Log.Warn("the pool does not follow the store in everything", "pool", m.cfg.PoolName, "error", err)
			}
		})
	})
}

// Close ends following and waits for what it began.
func (m *Membership) Close() {
	m.end()
	m.work.Wait()
}

// Reconcile makes the pool what the store says, once. What takes time, such as a drain, goes on after it has returned. Of
// several things that cannot be done now the error tells each; the next call tries again.
func (m *Membership) Reconcile(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, askTime)
	records, err := m.Records(asking)
	cancel()
	if err != nil {
		return err
	}
	here := map[string]pool.MemberStat{}
	for _, s := range m.cfg.Pool.Stat().Members {
		here[s.Name] = s
	}
	var errs []error
	for _, r := range records {
		s, there := here[r.Name]
		delete(here, r.Name)
		if m.moving[r.Name] != nil {
			continue // a drain or a removal that was begun here
		}
		errs = append(errs, m.follow(ctx, r, s, there))
	}
	for _, name := range slices.Sorted(maps.Keys(here)) {
		if m.moving[name] == nil {
			m.cfg.Log.Info("member removed elsewhere", "pool", m.cfg.PoolName, "member", name)
			errs = append(errs, m.leave(ctx, name, true))
		}
	}
	return errors.Join(errs...)
}

// follow makes one member what its record says. The caller holds mu.
func (m *Membership) follow(ctx context.Context, r MemberRecord, s pool.MemberStat, there bool) error {
	was := m.applied[r.Name]
	switch {
	case !there:
		m.cfg.Log.Info("member added elsewhere", "pool", m.cfg.PoolName, "member", r.Name)
		return m.add(r)
	case !sameToken(r, was):
		// It is taken out and, when it is gone, added as it is now.
		m.cfg.Log.Info("member changed elsewhere", "pool", m.cfg.PoolName, "member", r.Name)
		return m.leave(ctx, r.Name, true)
	case r.Drained && s.State != pool.Drained && s.State != pool.Draining && s.State != pool.Latched:
		return m.leave(ctx, r.Name, false)
	case !r.Drained && s.State == pool.Drained:
		return m.cfg.Pool.Resume(r.Name)
	case r.Latched != "" && s.State != pool.Latched && r.Latched != was.Latched:
		was.Latched = r.Latched
		m.applied[r.Name] = was
		return m.cfg.Pool.Latch(r.Name, r.Latched)
	case r.Latched == "" && r.Clears > was.Clears:
		was.Latched, was.Clears = "", r.Clears
		m.applied[r.Name] = was
		return m.unlatch(r.Name)
	}
	return nil
}

// add adds a stored member to the pool and remembers what it was added after. The caller holds mu.
func (m *Membership) add(r MemberRecord) error {
	err := m.cfg.Pool.Add(m.member(r))
	if err == nil {
		m.applied[r.Name] = r
	}
	return err
}

// leave drains a member in the background and, where gone is set, takes it out. The last member able to serve stays until
// another one is: whoever gave the order saw his own gateway only. The caller holds mu.
func (m *Membership) leave(ctx context.Context, name string, gone bool) error {
	if m.state(name) != pool.Latched {
		if err := m.cfg.Pool.BeginDrain(name, false); err != nil {
			return err
		}
	}
	m.move(name, func() {
		ctx, cancel := context.WithTimeout(ctx, followDrain)
		defer cancel()
		var err error
		if gone {
			err = m.cfg.Pool.Remove(ctx, name, true)
		} else {
			err = m.cfg.Pool.Drain(ctx, name, true)
		}
		if err != nil && !errors.Is(err, pool.ErrClosed) {
			m.cfg.Log.Warn("work under way was given up", "pool", m.cfg.PoolName, "member", name, "error", err)
		}
	})
	return nil
}

// sameToken reports whether two records describe the same token, used in the same way.
func sameToken(a, b MemberRecord) bool {
	return reflect.DeepEqual(a.settings(), b.settings())
}
