package pool

import (
	"context"
	"errors"
	"fmt"
	"keyway/hsm"
	"time"
)

// opening is how far a member is with opening its token, for people who wait for it.
type opening struct {
	doing        string
	open, wanted int // sessions
}

// join opens the token, sees to the pool KEK and opens the sessions, within the pool's JoinTimeout where the token runs in a
// process that can be killed.
func (m *member) join(ctx context.Context) (*generation, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.pool.cfg.JoinTimeout, fmt.Errorf("%w: the member had not joined after %s", hsm.ErrHung, m.pool.cfg.JoinTimeout))
	defer cancel()
	m.opening.Store(&opening{doing: "opening the token"})
	defer m.opening.Store(nil)
	token, err := m.cfg.Open(ctx)
	if err != nil {
		return nil, err
	}
	if p, ok := token.(hsm.Process); ok {
		defer context.AfterFunc(ctx, p.Kill)() // the calls below know no context
	}
	g := &generation{m: m, token: token, lost: make(chan error, 1)}
	sessions, err := g.open(ctx)
	if err != nil {
		for _, s := range sessions {
			_ = s.Close()
		}
		_ = token.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return nil, err
	}
	m.proved(nil)
	g.begin(sessions)
	return g, nil
}

// open opens the sessions, as many and as fast as the token allows, and sees to the KEK with the first. With an error
// it returns those it had opened.
func (g *generation) open(ctx context.Context) (sessions []hsm.Session, err error) {
	defer caught(&err)
	m, info := g.m, g.token.Info()
	first, err := g.token.OpenSession(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	sessions = append(sessions, first)
	kek, err := m.findKEK(ctx, first)
	if err != nil {
		return sessions, err
	}
	if err := g.makeCanary(first); err != nil {
		return sessions, fmt.Errorf("making the canary's key: %w", err)
	}
	if err := g.probe(first); err != nil {
		return sessions, fmt.Errorf("the canary fails: %w", err)
	}
	n := m.cfg.Sessions
	if n == 0 {
		n = 16
		if info.Concurrency > 0 {
			n = info.Concurrency
		}
	}
	if limit := m.pool.cfg.OpTimeout; info.SlowestCall >= limit {
		m.log.Warn("op_timeout is shorter than a call may take on this token though it is well: calls will be given up and the worker killed in vain",
			"op_timeout", limit, "slowest_call", info.SlowestCall)
	}
	if info.MaxSessions > 0 {
		n = min(n, info.MaxSessions)
	}
	for len(sessions) < n {
		m.opening.Store(&opening{"opening sessions", len(sessions), n})
		if info.OpenPerSecond > 0 && !pause(ctx, time.Second/time.Duration(info.OpenPerSecond)) {
			return sessions, ctx.Err()
		}
		s, err := g.token.OpenSession(ctx)
		if hsm.FaultOf(err) == hsm.Busy {
			m.log.Warn("the token takes no more sessions", "open", len(sessions), "wanted", n)
			break
		}
		if err != nil {
			return sessions, fmt.Errorf("opening session %d of %d: %w", len(sessions)+1, n, err)
		}
		sessions = append(sessions, s)
	}
	depth := m.cfg.Queue
	if depth == 0 {
		depth = 64 * n
	}
	limit := m.cfg.Handles
	if limit == 0 {
		limit = 1024
		if info.MaxObjects > 0 {
			limit = info.MaxObjects
		}
	}
	g.queue = newQueue(depth, len(sessions))
	g.handles = newHandles(limit, m.cfg.KEK, kek, &m.loads, &m.evictions)
	return sessions, nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// findKEK returns the handle of the pool KEK, asking for it to be put on the token when it is not there.
func (m *member) findKEK(ctx context.Context, sess hsm.Session) (hsm.Handle, error) {
	if m.cfg.KEK == nil {
		return 0, nil
	}
	h, err := sess.Find(hsm.ClassSecret, m.cfg.KEK)
	if err == nil || !errors.Is(err, hsm.ErrNotFound) {
		return h, err
	}
	keeper, ok := sess.(hsm.Keeper)
	if m.cfg.Provision == nil || !ok {
		return 0, fmt.Errorf("the token does not hold the pool KEK, and nothing here can put it there: %w", err)
	}
	m.opening.Store(&opening{doing: "putting the pool KEK on the token"})
	if err := m.cfg.Provision(ctx, keeper); err != nil {
		return 0, fmt.Errorf("putting the pool KEK on the token: %w", err)
	}
	return sess.Find(hsm.ClassSecret, m.cfg.KEK)
}
