package pool

import (
	"context"
	"errors"
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
	opening atomic.Pointer[opening]    // nil unless the token is being opened

	order sync.Mutex // serialises operators' commands

	mu     sync.Mutex // guards what follows
	state  State      // Active stands for ejected too: the breaker tells them apart
	reason string
	cancel context.CancelFunc // ends run
	ended  chan struct{}      // closed when run has returned
	// latchNext is why the member must not log in again when its token is lost; nil when nobody ordered that.
	latchNext *string

	epoch, operations, failures, loads, evictions, hung, slow, respawns, unusable atomic.Uint64
	alarmed                                                                       atomic.Int64 // UnixNano of the last alarm about a key it could not use
	nextJoin                                                                      atomic.Int64 // UnixNano of the next attempt to open the token, the last one while it goes on

	doubt      atomic.Bool // an operation failed since the last canary
	canaryMu   sync.Mutex
	lastCanary time.Time // when the member was proved last, or failed to be
	canaryErr  error
	ill        time.Time // of the first of the canaries that failed in a row, zero when the last one did not
	asked      time.Time // when the last canary was sent
	metrics    memberMetrics
}

func newMember(p *Pool, cfg MemberConfig) *member {
	m := &member{pool: p, cfg: cfg, log: p.cfg.Log.With("pool", p.cfg.Name, "member", cfg.Name), state: Drained}
	m.breaker = newBreaker(cfg.Name, m.stuck, m.breakerChanged)
	m.metrics = newMemberMetrics(p.cfg.Name, cfg.Name)
	return m
}

// stuck reports whether hung calls have taken all that may run.
func (m *member) stuck() bool {
	g := m.gen.Load()
	return g != nil && g.stuck()
}

// breakerChanged runs under the breaker's lock, so it only tells what it was told.
func (m *member) breakerChanged() {
	if m.breaker.closed.Load() {
		m.log.Info("breaker closed: the member serves again")
		m.pool.changed()
	} else {
		m.log.Warn("breaker not closed: the member gets canaries only")
	}
}

// able reports whether callers may be sent to the member.
func (m *member) able() bool {
	g := m.gen.Load()
	return g != nil && g.takes() && m.breaker.closed.Load()
}

// set makes the member what was ordered.
func (m *member) set(s State, reason string) {
	m.mu.Lock()
	m.change(s, reason)
}

// become makes the member what became of its token. One that drains goes on draining until it is drained or taken back.
func (m *member) become(s State, reason string) {
	m.mu.Lock()
	if m.state == Draining {
		s = Draining
	}
	m.change(s, reason)
}

// change is called with mu held and gives it back.
func (m *member) change(s State, reason string) {
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
	for ctx.Err() == nil {
		if m.latchOrdered() {
			return
		}
		g, err := m.join(ctx)
		switch {
		case ctx.Err() != nil:
			if g != nil {
				g.close(ctx, hsm.ErrClosed)
			}
			return
		case hsm.FaultOf(err) == hsm.Locked:
			m.latch(err)
			return
		case err != nil:
			m.become(Joining, err.Error())
			logPanic(m.log, err)
			m.log.Error("cannot open the member's token", "error", err, "again_in", backoff.Round(time.Millisecond))
		default:
			opened := time.Now()
			cause := m.serve(ctx, g)
			if hsm.FaultOf(cause) == hsm.Locked {
				m.latch(cause)
				return
			}
			if time.Since(opened) > 10*time.Second {
				backoff = respawnMin
				if errors.Is(cause, errRecycle) {
					continue // at once, unless it reaches its limit as soon as it is there
				}
			}
		}
		wait := backoff*3/4 + rand.N(backoff/2)
		m.nextJoin.Store(time.Now().Add(wait).UnixNano())
		if !pause(ctx, wait) {
			return
		}
		backoff = min(2*backoff, respawnMax)
	}
}

// serve lets callers use g until it is lost or ctx ends, and closes it. It returns why it ended.
func (m *member) serve(ctx context.Context, g *generation) error {
	m.load.since.Store(time.Now().UnixNano())
	m.mu.Lock()
	g.resting.Store(m.state == Draining)
	m.gen.Store(g)
	m.mu.Unlock()
	m.become(Active, "")
	m.pool.changed()
	cause := g.watch(ctx)
	m.gen.Store(nil)
	m.epoch.Add(1)
	switch {
	case ctx.Err() != nil:
	case errors.Is(cause, errRecycle):
		m.log.Warn("the member's worker is replaced", "cause", cause)
		m.become(Joining, cause.Error())
	default:
		m.respawns.Add(1)
		m.become(Joining, "lost: "+cause.Error())
		m.log.Error("member lost", "error", cause)
	}
	g.close(ctx, hsm.ErrLinkLost)
	return cause
}

// latch takes the member out until an operator clears it: another attempt could lock the token's PIN for good.
func (m *member) latch(err error) {
	reason := err.Error()
	m.log.Error("member latched: its PIN was refused and it will not be tried again by itself; correct the PIN, then clear the latch", "error", err)
	if m.cfg.OnLatch != nil {
		m.cfg.OnLatch(m.cfg.Name, reason)
	}
	m.set(Latched, reason) // when it is stored: whoever clears it must not be overtaken by the record
}

// latchOrdered latches the member if that was ordered.
func (m *member) latchOrdered() bool {
	m.mu.Lock()
	if m.latchNext == nil {
		m.mu.Unlock()
		return false
	}
	m.change(Latched, *m.latchNext)
	return true
}

func (m *member) stat() MemberStat {
	state, reason := m.current()
	s := MemberStat{
		Name: m.cfg.Name, State: state, Reason: reason, Breaker: m.breaker.state(), Epoch: m.epoch.Load(),
		Operations: m.operations.Load(), Failures: m.failures.Load(), Loads: m.loads.Load(), Evictions: m.evictions.Load(),
		Hung: m.hung.Load(), Slow: m.slow.Load(), Unusable: m.unusable.Load(), Respawns: m.respawns.Load(), Latency: m.load.latency(ClassSign), Busy: int(m.load.inflight.Load()),
	}
	m.canaryMu.Lock()
	s.LastCanary, s.LastCanaryOK = m.lastCanary, m.canaryErr == nil && !m.lastCanary.IsZero()
	m.canaryMu.Unlock()
	if g := m.gen.Load(); g != nil {
		info := g.token.Info()
		s.Token, s.Serial, s.Manufacturer, s.Model = info.Label, info.Serial, info.Manufacturer, info.Model
		s.SlowStart = m.able() && time.Since(time.Unix(0, m.load.since.Load())) < m.pool.cfg.SlowStart
		s.Sessions, s.Queued, s.QueueLimit, s.Handles = g.sessions(), g.queue.len(), g.queue.limit, g.handles.len()
		s.Busy, s.Permits = g.busy(), g.queue.allowed()
		if p, ok := g.token.(hsm.Process); ok {
			s.PID = p.PID()
		}
	} else if o := m.opening.Load(); o != nil {
		s.Doing, s.Sessions, s.Wanted = o.doing, o.open, o.wanted
	}
	return s
}
