package pool

import (
	"context"
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	if m := p.find(name); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%w %s is not in pool %s", ErrMember, name, p.cfg.Name)
}

// Drain takes no new work to the member, waits until what it has is done, and closes its token; Stat tells how far it is. When
// ctx ends first, what is still there is given up and goes to other members. It refuses with ErrLastMember, unless forced, when
// no other member could serve. Draining a drained member does nothing.
func (p *Pool) Drain(ctx context.Context, name string, force bool) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.order.Lock()
	defer m.order.Unlock()
	return p.drain(ctx, m, force)
}

// BeginDrain is the beginning of Drain: it decides whether the member may go, takes no new work to it and returns at once. The
// member is draining until somebody calls Drain, which finishes it, or Resume, which takes it back.
func (p *Pool) BeginDrain(name string, force bool) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.order.Lock()
	defer m.order.Unlock()
	_, err = p.beginDrain(m, force)
	return err
}

// drain is Drain for who holds m.order.
func (p *Pool) drain(ctx context.Context, m *member, force bool) error {
	g, err := p.beginDrain(m, force)
	if err != nil {
		return err
	}
	if g != nil {
		err = p.runDry(ctx, m, g)
	}
	m.stop()
	m.gen.Store(nil)
	why := ""
	if err != nil {
		why = err.Error()
	}
	m.set(Drained, why)
	return err
}

// beginDrain decides, one member at a time, whether m may go, and takes no new work to it.
func (p *Pool) beginDrain(m *member, force bool) (*generation, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state, reason := m.current(); {
	case p.closed:
		return nil, ErrClosed
	case state == Drained:
		return nil, nil
	case state == Latched:
		return nil, fmt.Errorf("%w %s is latched (%s): clear the latch or remove the member", ErrMember, m.cfg.Name, reason)
	case state == Draining: // BeginDrain decided
	case !force && !p.otherAble(m):
		return nil, fmt.Errorf("%w: %s in pool %s; use force to stop serving", ErrLastMember, m.cfg.Name, p.cfg.Name)
	}
	m.set(Draining, "")
	g := m.gen.Load()
	if g != nil {
		g.resting.Store(true)
	}
	return g, nil
}

// runDry waits until g has nothing left to do that somebody waits for, or is lost. What was given up as hung has been told to its caller.
func (p *Pool) runDry(ctx context.Context, m *member, g *generation) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for m.gen.Load() == g && (g.queue.len() > 0 || g.busy() > int(g.hung.Load()) || m.load.inflight.Load() > 0) {
		select {
		case <-tick.C:
		case <-p.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("member %s was drained with work under way: %w", m.cfg.Name, ctx.Err())
		}
	}
	select {
	case <-p.closing: // its work was not finished but given up
		return ErrClosed
	default:
		return nil
	}
}

// again starts a stopped member, unless the pool was closed, or the member removed while the order waited for its turn: nobody would stop it.
func (p *Pool) again(m *member) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if p.find(m.cfg.Name) != m {
		return fmt.Errorf("%w %s was removed from pool %s", ErrMember, m.cfg.Name, p.cfg.Name)
	}
	m.start()
	return nil
}

// Resume opens a drained member again, or takes one back whose drain was begun only. Resuming another member does nothing,
// unless it is latched.
func (p *Pool) Resume(name string) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.order.Lock()
	defer m.order.Unlock()
	switch state, reason := m.current(); state {
	case Drained:
		return p.again(m)
	case Draining:
		m.takeBack()
		p.changed()
	case Latched:
		return fmt.Errorf("%w %s is latched (%s): clear the latch instead", ErrMember, name, reason)
	}
	return nil
}

// takeBack ends the draining of a member that was not stopped.
func (m *member) takeBack() {
	m.mu.Lock()
	if g := m.gen.Load(); g != nil {
		g.resting.Store(false)
		m.change(Active, "")
	} else {
		m.change(Joining, "")
	}
}

// Latch keeps a member from logging in again until ClearLatch: somebody else had its PIN refused. One that is open goes on until its
// token is lost; one whose token cannot be opened latches instead of trying again.
func (p *Pool) Latch(name, reason string) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.latchNext = &reason
	m.mu.Unlock()
	return nil
}

// ClearLatch lets a latched member log in again, once; of one that goes on with a latch set elsewhere it forgets that.
func (p *Pool) ClearLatch(name string) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.order.Lock()
	defer m.order.Unlock()
	m.mu.Lock()
	noted, state := m.latchNext != nil, m.state
	m.latchNext = nil
	m.mu.Unlock()
	if state != Latched {
		if noted {
			return nil
		}
		return fmt.Errorf("%w %s is %s, not latched", ErrMember, name, state)
	}
	m.stop()
	return p.again(m)
}

// Remove drains the member and takes it out of the pool. A latched member, which cannot be drained, is taken out at once.
func (p *Pool) Remove(ctx context.Context, name string, force bool) error {
	m, err := p.known(name)
	if err != nil {
		return err
	}
	m.order.Lock()
	defer m.order.Unlock()
	if state, _ := m.current(); state != Latched {
		err = p.drain(ctx, m, force)
	}
	if state, _ := m.current(); state != Drained && state != Latched {
		return err
	}
	m.stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(*p.members.Load()), func(o *member) bool { return o == m })
	p.members.Store(&next)
	return err
}

// Close closes every member and waits for every goroutine of the pool. Operations that still wait fail.
// It is safe to call twice.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.closing)
	members := *p.members.Load()
	p.mu.Unlock()
	for _, m := range members {
		m.mu.Lock()
		if m.cancel != nil {
			m.cancel() // all at once, then wait for each
		}
		m.mu.Unlock()
	}
	for _, m := range members {
		m.stop()
	}
	return p.gauges()
}
