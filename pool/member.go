package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// Bounds of the time between two attempts to open a member's token, before jitter.
const (
	respawnMin = time.Second
	respawnMax = 60 * time.Second
)

// member is one token of the pool: a state, a breaker, a load, and while its token is open a generation.
type member struct {
	pool *Pool
	cfg  MemberConfig
	log  *slog.Logger

	breaker *breaker
	load    load
	gen     atomic.Pointer[generation] // nil while the token is not open

	mu     sync.Mutex // guards what follows
	state  State      // Active stands for ejected too: the breaker tells them apart
	reason string
	cancel context.CancelFunc // ends run
	ended  chan struct{}      // closed when run has returned

	epoch, operations, failures, loads, evictions, hung, respawns atomic.Uint64

	doubt      atomic.Bool // an operation failed since the last canary
	canaryMu   sync.Mutex
	lastCanary time.Time
	canaryErr  error
	metrics    memberMetrics
}

func newMember(p *Pool, cfg MemberConfig) *member {
	m := &member{pool: p, cfg: cfg, log: p.cfg.Log.With("pool", p.cfg.Name, "member", cfg.Name), state: Drained}
	m.breaker = newBreaker(cfg.Name, m.sessions, m.hungNow, m.breakerChanged)
	m.metrics = newMemberMetrics(p.cfg.Name, cfg.Name)
	return m
}

func (m *member) sessions() int {
	if g := m.gen.Load(); g != nil {
		return len(g.slots)
	}
	return 1
}

func (m *member) hungNow() int {
	if g := m.gen.Load(); g != nil {
		return int(g.hung.Load())
	}
	return 0
}

// breakerChanged runs under the breaker's lock, so it only writes a line about what it was told.
func (m *member) breakerChanged() {
	if m.breaker.closed.Load() {
		m.log.Info("breaker closed: the member serves again")
	} else {
		m.log.Warn("breaker not closed: the member gets canaries only")
	}
}

// able reports whether callers may be sent to the member.
func (m *member) able() bool {
	g := m.gen.Load()
	return g != nil && g.open.Load() && m.breaker.closed.Load()
}

func (m *member) set(s State, reason string) {
	m.mu.Lock()
	changed := m.state != s || m.reason != reason
	m.state, m.reason = s, reason
	m.mu.Unlock()
	if changed {
		m.log.Info("member is "+string(s), "reason", reason)
	}
}

func (m *member) current() (State, string) {
	m.mu.Lock()
	s, reason := m.state, m.reason
	m.mu.Unlock()
	if s == Active && !m.breaker.closed.Load() {
		s = Ejected
		m.canaryMu.Lock()
		if m.canaryErr != nil {
			reason = m.canaryErr.Error()
		}
		m.canaryMu.Unlock()
	}
	return s, reason
}

// start begins to open the member's token in the background.
func (m *member) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	m.mu.Lock()
	m.cancel, m.ended = cancel, ended
	m.mu.Unlock()
	m.set(Joining, "")
	go func() {
		defer close(ended)
		m.run(ctx)
	}()
}

// stop ends run and waits for it.
func (m *member) stop() {
	m.mu.Lock()
	cancel, ended := m.cancel, m.ended
	m.mu.Unlock()
	if cancel != nil {
		cancel()
		<-ended
	}
}

// run keeps the member's token open until ctx ends or the member latches.
func (m *member) run(ctx context.Context) {
	backoff := respawnMin
	for {
		g, err := m.join(ctx)
		switch {
		case ctx.Err() != nil:
			if g != nil {
				g.close(hsm.ErrClosed)
			}
			return
		case hsm.FaultOf(err) == hsm.Locked:
			m.latch(err)
			return
		case err != nil:
			m.set(Joining, err.Error())
			m.log.Error("cannot open the member's token", "error", err, "again_in", backoff.Round(time.Millisecond))
		default:
			opened := time.Now()
			m.load.since.Store(opened.UnixNano())
			m.gen.Store(g)
			m.set(Active, "")
			m.pool.changed()
			cause := g.watch(ctx)
			m.gen.Store(nil)
			m.epoch.Add(1)
			if ctx.Err() == nil {
				m.respawns.Add(1)
				m.set(Joining, "lost: "+cause.Error())
				m.log.Error("member lost", "error", cause)
			}
			g.close(hsm.ErrLinkLost)
			if ctx.Err() != nil {
				return
			}
			if time.Since(opened) > 10*time.Second {
				backoff = respawnMin
			}
		}
		t := time.NewTimer(backoff*3/4 + rand.N(backoff/2))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		backoff = min(2*backoff, respawnMax)
	}
}

// latch takes the member out until an operator clears it: another attempt could lock the token's PIN for good.
func (m *member) latch(err error) {
	reason := err.Error()
	m.set(Latched, reason)
	m.log.Error("member latched: its PIN was refused and it will not be tried again by itself; correct the PIN, then clear the latch", "error", err)
	if m.cfg.OnLatch != nil {
		m.cfg.OnLatch(m.cfg.Name, reason)
	}
}

// join opens the token, sees to the pool KEK and opens the sessions.
func (m *member) join(ctx context.Context) (*generation, error) {
	token, err := m.cfg.Open(ctx)
	if err != nil {
		return nil, err
	}
	g := &generation{m: m, token: token, lost: make(chan error, 1), queue: nil}
	first, err := token.OpenSession(ctx)
	if err != nil {
		_ = token.Close()
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	kek, err := m.findKEK(ctx, first)
	if err != nil {
		_ = first.Close()
		_ = token.Close()
		return nil, err
	}
	info := token.Info()
	n := m.cfg.Sessions
	if n == 0 {
		n = 16
	}
	if info.MaxSessions > 0 {
		n = min(n, info.MaxSessions)
	}
	limit := m.cfg.Handles
	if limit == 0 {
		limit = 1024
		if info.MaxObjects > 0 {
			limit = info.MaxObjects
		}
	}
	depth := m.cfg.Queue
	if depth == 0 {
		depth = 64 * n
	}
	g.queue = newQueue(depth)
	g.handles = newHandles(limit, kek, &m.loads, &m.evictions)
	g.makeCanary(first, info)
	sessions := []hsm.Session{first}
	for len(sessions) < n {
		if info.OpenPerSecond > 0 && !pause(ctx, time.Second/time.Duration(info.OpenPerSecond)) {
			break
		}
		s, err := token.OpenSession(ctx)
		if err != nil {
			if hsm.FaultOf(err) != hsm.Busy {
				for _, s := range sessions {
					_ = s.Close()
				}
				_ = token.Close()
				return nil, fmt.Errorf("opening session %d of %d: %w", len(sessions)+1, n, err)
			}
			m.log.Warn("the token takes no more sessions", "open", len(sessions), "wanted", n)
			break
		}
		sessions = append(sessions, s)
	}
	g.begin(sessions)
	return g, nil
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
	if err := m.cfg.Provision(ctx, keeper); err != nil {
		return 0, fmt.Errorf("putting the pool KEK on the token: %w", err)
	}
	return sess.Find(hsm.ClassSecret, m.cfg.KEK)
}

func (m *member) stat() MemberStat {
	state, reason := m.current()
	s := MemberStat{
		Name: m.cfg.Name, State: state, Reason: reason, Breaker: m.breaker.state(), Epoch: m.epoch.Load(),
		Operations: m.operations.Load(), Failures: m.failures.Load(), Loads: m.loads.Load(), Evictions: m.evictions.Load(),
		Hung: m.hung.Load(), Respawns: m.respawns.Load(), Latency: m.load.latency(ClassSign), Busy: int(m.load.inflight.Load()),
	}
	m.canaryMu.Lock()
	s.LastCanary, s.LastCanaryOK = m.lastCanary, m.canaryErr == nil && !m.lastCanary.IsZero()
	m.canaryMu.Unlock()
	if g := m.gen.Load(); g != nil {
		info := g.token.Info()
		s.Token, s.Serial = info.Label, info.Serial
		s.Sessions, s.Queued, s.QueueLimit, s.Handles = len(g.slots), g.queue.len(), g.queue.limit, g.handles.len()
		s.Busy = g.busy()
		if p, ok := g.token.(hsm.Process); ok {
			s.PID = p.PID()
		}
	}
	return s
}
