// Package pool runs cryptographic operations on whichever of several tokens is
// able: it queues, balances, fails over, loads wrapped keys on demand and takes
// members in and out while traffic flows. docs/design/pool.md says what it promises.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// Pool is a set of members. It is safe for concurrent use.
type Pool struct {
	cfg     Config
	budget  *budget
	members atomic.Pointer[[]*member]

	mu      sync.Mutex // serialises changes of the set
	closed  bool
	closing chan struct{}
	joined  chan struct{} // closed and replaced whenever a member becomes active
	joinMu  sync.Mutex
	jobs    sync.Pool // of *job

	operations, retries, overloaded atomic.Uint64
	gauges                          func() error // unregisters the pool's observable instruments
}

// New returns a pool without members. Close it.
func New(cfg Config) (*Pool, error) {
	if err := key.CheckName(cfg.Name); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.OpTimeout, 10*time.Second)
	setDefault(&cfg.BulkTimeout, max(time.Minute, cfg.OpTimeout))
	setDefault(&cfg.JoinTimeout, time.Minute)
	setDefault(&cfg.CanaryEvery, 5*time.Second)
	setDefault(&cfg.SlowStart, 2*time.Second)
	setDefault(&cfg.RetryRatio, 0.2)
	setDefault(&cfg.Attempts, 3)
	if cfg.CanaryEvery > readyFor {
		return nil, fmt.Errorf("pool %s: a canary every %s is too seldom, readiness promises at most %s", cfg.Name, cfg.CanaryEvery, readyFor)
	}
	p := &Pool{cfg: cfg, budget: newBudget(cfg.RetryRatio), closing: make(chan struct{}), joined: make(chan struct{})}
	p.members.Store(&[]*member{})
	gauges, err := p.observe()
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	p.gauges = gauges
	return p, nil
}

func setDefault[T int | float64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func classOf(k hsm.OpKind) Class {
	switch k {
	case hsm.OpDecrypt, hsm.OpUnwrap:
		return ClassDecrypt
	case hsm.OpSign:
		return ClassSign
	}
	return ClassEncrypt
}

// Do runs op with key k on some member and returns its result, which the caller
// owns. k is nil for OpRandom. op's bytes are copied: the caller may reuse them at once.
//
// A failure that is not the caller's goes to the next member, within ctx, the
// pool's attempts and its retry budget; every operation may be repeated, since the IVs of AES-GCM are
// chosen on the token's side for each attempt. The errors are those of this package, ctx's own, and for a Caller
// fault the token's error.
func (p *Pool) Do(ctx context.Context, k *Key, op hsm.Op) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.operations.Add(1)
	p.budget.earn()
	class, client := classOf(op.Kind), clientOf(ctx)
	var tried [8]*member
	var last error
	for n := 0; n < p.cfg.Attempts && n < len(tried); n++ {
		m, more, err := p.next(client, class, op.Mech.Type, tried[:n])
		if err != nil {
			return nil, p.verdict(last, err)
		}
		// Work that a lost worker took with it costs nothing more to do, and who was sent on has paid.
		if last != nil && !errors.Is(last, hsm.ErrLinkLost) && last != errSlow && !p.budget.spend() {
			return nil, p.verdict(last, nil)
		}
		if last != nil {
			p.retries.Add(1)
		}
		tried[n] = m
		j := p.newJob(client, k, &op, class)
		if (more || n == 0) && n+1 < p.cfg.Attempts {
			j.patience = p.patience(ctx, j.entered)
		}
		out, err := m.do(ctx, j)
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if hsm.FaultOf(err) == hsm.Caller {
			return nil, err
		}
		last = err
	}
	return nil, p.verdict(last, nil)
}

// patience is how long a caller waits for one member while another could serve it: half of what is left of its time, so that
// the other half is for the other one.
func (p *Pool) patience(ctx context.Context, now time.Time) time.Duration {
	d := p.cfg.Hedge
	if deadline, ok := ctx.Deadline(); ok {
		if half := deadline.Sub(now) / 2; d == 0 || half < d {
			d = half
		}
	}
	return d
}

// next chooses a member for one attempt. more: there are others to choose from.
func (p *Pool) next(client string, class Class, mech hsm.MechanismType, tried []*member) (_ *member, more bool, _ error) {
	full, lacking := false, false
	m, more := p.pick(class, func(m *member) bool {
		for _, t := range tried {
			if t == m {
				return false
			}
		}
		g := m.gen.Load()
		if g == nil || !m.able() {
			return false
		}
		if mech != 0 && !g.token.Info().Has(mech) {
			lacking = true
			return false
		}
		if g.queue.full(client) {
			full = true
			return false
		}
		return true
	})
	switch {
	case m != nil:
		return m, more, nil
	case full:
		p.overloaded.Add(1)
		return nil, false, &Refusal{ErrOverloaded, p.drainTime(class)}
	case lacking:
		return nil, false, fmt.Errorf("%w %s", ErrUnsupported, mech)
	}
	return nil, false, &Refusal{ErrUnavailable, p.comeBack()}
}

// drainTime estimates when there will be room: the shortest time in which a member works off its queue.
func (p *Pool) drainTime(class Class) time.Duration {
	best := time.Minute
	for _, m := range *p.members.Load() {
		if g := m.gen.Load(); g != nil && m.able() {
			best = min(best, m.load.latency(class)*time.Duration(g.queue.len())/time.Duration(g.queue.allowed()))
		}
	}
	return max(best, time.Millisecond)
}

// comeBack estimates when some member will serve again: at the next attempt to open a token or the next canary of an ejected
// one. Members that wait for an operator promise nothing.
func (p *Pool) comeBack() time.Duration {
	now, best := time.Now(), time.Minute
	for _, m := range *p.members.Load() {
		var at time.Time
		switch state, _ := m.current(); state {
		case Joining, Active: // Active: it came back at this moment
			at = time.Unix(0, m.nextJoin.Load())
		case Ejected:
			at = m.breaker.due(!p.otherAble(m))
		default:
			continue
		}
		best = min(best, at.Sub(now))
	}
	return max(best, 100*time.Millisecond)
}

// verdict is the error of an operation that ended without a result: what the last
// member said, or why there was no member to ask.
func (p *Pool) verdict(last, none error) error {
	switch {
	case last == nil, last == errSlow && none != nil:
		return none
	case hsm.FaultOf(last) == hsm.Object && errors.Is(last, hsm.ErrUnsupported):
		return fmt.Errorf("%w: %w", ErrUnsupported, last)
	case hsm.FaultOf(last) == hsm.Object:
		return fmt.Errorf("%w: %w", ErrKey, last)
	case hsm.FaultOf(last) == hsm.Busy:
		return &Refusal{ErrOverloaded, time.Second}
	}
	return fmt.Errorf("%w: %w", ErrDevice, last)
}

// do runs j on the member and returns a copy of its result.
func (m *member) do(ctx context.Context, j *job) ([]byte, error) {
	g := m.gen.Load()
	if g == nil || !g.takes.Load() {
		return nil, hsm.ErrLinkLost
	}
	report, ok := m.breaker.admit(false)
	if !ok {
		return nil, hsm.ErrLinkLost
	}
	j.settled = report
	m.load.inflight.Add(1)
	defer m.load.inflight.Add(-1)
	if !g.queue.push(j) {
		report(errAbandoned)
		return nil, &hsm.Error{Code: hsm.SessionCount}
	}
	if err := j.wait(ctx); err != nil {
		return nil, err
	}
	err := j.err
	var out []byte
	if err == nil {
		out = append([]byte(nil), j.op.Out...)
	}
	if err != errSlow && j.state.Load() == finished {
		m.pool.release(j)
	}
	return out, err
}

// With runs f with one session of an able member, for control-plane work of
// several steps. It never retries: f may have done half its work. f must not use the session after it has
// returned. When ctx ends first, With returns and f goes on.
func (p *Pool) With(ctx context.Context, f func(hsm.Keeper) error) error {
	m, _, err := p.next("", ClassBulk, 0, nil)
	if err != nil {
		return err
	}
	j := p.newJob("", nil, &hsm.Op{}, ClassBulk)
	j.with = f
	_, err = m.do(ctx, j)
	return err
}

// observe counts one finished operation.
func (m *member) observe(kind hsm.OpKind, class Class, took, withQueue time.Duration, err error) {
	m.operations.Add(1)
	m.metrics.record(kind, took, withQueue, hsm.FaultOf(err))
	switch hsm.FaultOf(err) {
	case 0:
		m.load.observe(class, took)
		m.canaryMu.Lock()
		m.lastCanary, m.canaryErr = time.Now(), nil // a real operation proves as much as a canary
		m.canaryMu.Unlock()
	case hsm.Caller:
	default:
		m.failures.Add(1)
		m.load.penalise(class)
		m.doubt.Store(true)
	}
}

// otherAble reports whether a member other than m can serve.
func (p *Pool) otherAble(m *member) bool {
	for _, o := range *p.members.Load() {
		if o != m && o.able() {
			return true
		}
	}
	return false
}

// otherHasRoom reports whether a member other than m can serve and has room for more than a few: whom m's watcher sends on
// gives up a place in a queue, and must not be refused for it.
func (p *Pool) otherHasRoom(m *member) bool {
	for _, o := range *p.members.Load() {
		if g := o.gen.Load(); o != m && g != nil && o.able() && g.queue.len() < (g.queue.limit+1)/2 {
			return true
		}
	}
	return false
}

// Ready reports whether some member has proved able within the last 10 s.
func (p *Pool) Ready() bool {
	for _, m := range *p.members.Load() {
		m.canaryMu.Lock()
		ok := m.canaryErr == nil && !m.lastCanary.IsZero() && time.Since(m.lastCanary) <= readyFor
		m.canaryMu.Unlock()
		if ok && m.able() {
			return true
		}
	}
	return false
}

// changed wakes those who wait for a member.
func (p *Pool) changed() {
	p.joinMu.Lock()
	close(p.joined)
	p.joined = make(chan struct{})
	p.joinMu.Unlock()
}

// Wait returns when some member is able to serve, or with ctx's error.
func (p *Pool) Wait(ctx context.Context) error {
	for {
		p.joinMu.Lock()
		joined := p.joined
		p.joinMu.Unlock()
		if p.otherAble(nil) {
			return nil
		}
		select {
		case <-joined:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Has reports whether every able member has mechanism m; false when no member is able.
func (p *Pool) Has(m hsm.MechanismType) bool {
	any := false
	for _, o := range *p.members.Load() {
		if g := o.gen.Load(); g != nil {
			if !g.token.Info().Has(m) {
				return false
			}
			any = true
		}
	}
	return any
}

// OAEPHashes returns the hashes every open member can use with RSA OAEP, strongest first.
func (p *Pool) OAEPHashes() []hsm.Hash {
	var common []hsm.Hash
	first := true
	for _, o := range *p.members.Load() {
		g := o.gen.Load()
		if g == nil {
			continue
		}
		has := g.token.Info().OAEPHashes
		if first {
			common, first = append(common, has...), false
			continue
		}
		kept := common[:0]
		for _, h := range common {
			for _, x := range has {
				if h == x {
					kept = append(kept, h)
				}
			}
		}
		common = kept
	}
	return common
}

// Stat returns a snapshot.
func (p *Pool) Stat() Stat {
	s := Stat{Pool: p.cfg.Name, Members: []MemberStat{}, Ready: p.Ready(), Operations: p.operations.Load(), Retries: p.retries.Load(), Overloaded: p.overloaded.Load()}
	for _, m := range *p.members.Load() {
		s.Members = append(s.Members, m.stat())
	}
	return s
}
