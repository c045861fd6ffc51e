package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"keyway/lifecycle/key"
)

// Add adds a member and begins to open its token in the background; Stat and Wait tell when it serves.
func (p *Pool) Add(cfg MemberConfig) error {
	if err := key.CheckName(cfg.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrMember, err)
	}
	if cfg.Open == nil || cfg.Sessions < 0 || cfg.Queue < 0 || cfg.Handles < 0 {
		return fmt.Errorf("%w %s: its sessions, queue and handles must not be negative, and it must say how its token is opened", ErrMember, cfg.Name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.find(cfg.Name) != nil {
		return fmt.Errorf("%w %s exists already in pool %s", ErrMember, cfg.Name, p.cfg.Name)
	}
	m := newMember(p, cfg)
	next := append(slices.Clone(*p.members.Load()), m)
	p.members.Store(&next)
	switch {
	case cfg.Latched != "":
		m.set(Latched, cfg.Latched)
	case !cfg.Drained:
		m.start()
	}
	return nil
}

func (p *Pool) find(name string) *member {
	for _, m := range *p.members.Load() {
		if m.cfg.Name == name {
			return m
		}
	}
	return nil
}

func (p *Pool) known(name string) (*member, error) {
	if p.closed {
		return nil, ErrClosed
	}
	if m := p.find(name); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w %s is not in pool %s", ErrMember, name, p.cfg.Name)
}

// Drain takes no new work to the member, waits until what it has is done, and closes its token. When ctx ends first, what
// is still there is given up and goes to other members. It refuses with ErrLastMember, unless forced, when
// no other member could serve. Draining a drained member does nothing.
func (p *Pool) Drain(ctx context.Context, name string, force bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.known(name)
	if err != nil {
		return err
	}
	state, reason := m.current()
	if state == Drained {
		return nil
	}
	if state == Latched {
		return fmt.Errorf("%w %s is latched (%s): clear the latch or remove the member", ErrMember, name, reason)
	}
	if !force && !p.otherAble(m) {
		return fmt.Errorf("%w: %s in pool %s; use force to stop serving", ErrLastMember, name, p.cfg.Name)
	}
	m.set(Draining, "")
	if g := m.gen.Load(); g != nil {
		g.open.Store(false)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
	wait:
		for g.queue.len() > 0 || g.busy() > 0 || m.load.inflight.Load() > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				err = fmt.Errorf("member %s was drained with work under way: %w", name, ctx.Err())
				break wait
			}
		}
	}
	m.stop()
	m.gen.Store(nil)
	m.set(Drained, "")
	return err
}

// Resume opens a drained member again. Resuming a member that is not drained does nothing, unless it is latched.
func (p *Pool) Resume(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.known(name)
	if err != nil {
		return err
	}
	switch state, reason := m.current(); state {
	case Drained:
		m.start()
	case Latched:
		return fmt.Errorf("%w %s is latched (%s): clear the latch instead", ErrMember, name, reason)
	}
	return nil
}

// ClearLatch lets a latched member log in again, once.
func (p *Pool) ClearLatch(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	m, err := p.known(name)
	if err != nil {
		return err
	}
	if state, _ := m.current(); state != Latched {
		return fmt.Errorf("%w %s is %s, not latched", ErrMember, name, state)
	}
	m.stop()
	m.start()
	return nil
}

// Remove drains the member and takes it out of the pool.
func (p *Pool) Remove(ctx context.Context, name string, force bool) error {
	err := p.Drain(ctx, name, force)
	p.mu.Lock()
	defer p.mu.Unlock()
	m, known := p.known(name)
	if known != nil {
		return known
	}
	state, _ := m.current()
	if state != Drained && state != Latched {
		return err
	}
	m.stop()
	next := slices.DeleteFunc(slices.Clone(*p.members.Load()), func(o *member) bool { return o == m })
	p.members.Store(&next)
	if errors.Is(err, ErrMember) {
		return nil // a latched member cannot be drained, and need not be
	}
	return err
}

// Close closes every member and waits for every goroutine of the pool. Operations that still wait fail.
// It is safe to call twice.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, m := range *p.members.Load() {
		m.mu.Lock()
		if m.cancel != nil {
			m.cancel() // all at once, then wait for each
		}
		m.mu.Unlock()
	}
	for _, m := range *p.members.Load() {
		m.stop()
	}
	return p.gauges()
}
