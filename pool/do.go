package pool

import (
	"context"
	"errors"
	"fmt"
	"keyway/hsm"
	"time"
)

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
// A failure that is not the caller's goes to the next member, that of a busy token to the same one where there is no other, within ctx, the
// pool's attempts and its retry budget; every operation may be repeated, since the IVs of AES-GCM are
// chosen on the token's side for each attempt. The errors are those of this package, ctx's own, and for a Caller
// fault the token's error.
func (p *Pool) Do(ctx context.Context, k *Key, op hsm.Op) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.operations.Add(1)
	p.budget.earn()
	p.doubts.earn()
	class, client := classOf(op.Kind), ClientOf(ctx)
	out, slow, err := p.ask(ctx, client, class, k, &op)
	if err == nil || slow == nil || ctx.Err() != nil || hsm.FaultOf(err) == hsm.Caller || !slow.able() {
		return out, err
	}
	// It was sent on only to find no better member. The one it was sent on from may have been no more than slow.
	p.budget.owe()
	p.retries.Add(1)
	if out, _, again := slow.do(ctx, p.newJob(client, k, &op, class)); again == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, err
}

// ask is Do, asking no member twice but a busy one. slow is the last member from which the caller was sent on.
func (p *Pool) ask(ctx context.Context, client string, class Class, k *Key, op *hsm.Op) (out []byte, slow *member, err error) {
	var tried [8]*member
	var last error
	var opinion opinion
	// n members were asked so far, of which asked had work of it.
	for n, asked := 0, 0; asked < p.cfg.Attempts && n < len(tried); n++ {
		m, more, err := p.next(client, class, op.Mech.Type, tried[:n], n > 0)
		if err != nil {
			return nil, slow, opinion.or(p.verdict(last, err))
		}
		if opinion.agreed() && m.load.silent(class, time.Now().UnixNano()) {
			return nil, nil, opinion.blame // nothing better is to be heard there
		}
		// Another opinion has a budget of its own.
		if last != nil && last != opinion.blame && !free(last) && !p.budget.spend() {
			return nil, slow, opinion.or(p.verdict(last, nil))
		}
		if last != nil {
			p.retries.Add(1)
		}
		tried[n] = m
		j := p.newJob(client, k, op, class)
		if (more || n == 0) && asked+1 < p.cfg.Attempts {
			j.patience = p.patience(ctx, j.entered)
			j.hedged = more && p.cfg.Hedge == 0
		}
		out, reached, err := opinion.do(ctx, m, j)
		if err == nil {
			opinion.disprove(class)
			return out, nil, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if hsm.FaultOf(err) == hsm.Caller && !(more && opinion.doubt(p, m, err)) {
			return nil, nil, err
		}
		last = err
		if err == errSlow {
			slow = m
		}
		if reached {
			asked++
		}
		if reached && !more && hsm.FaultOf(err) == hsm.Busy {
			tried[n] = nil // it had too much to do at this moment, now asks less of its token, and there is no other
		}
	}
	return nil, slow, opinion.or(p.verdict(last, nil))
}

// free reports whether another try after err costs none of the retry budget: where nothing was done, or a lost worker took it away, it
// adds no work; and who was sent on has paid.
func free(err error) bool {
	return err == errFull || err == errSlow || errors.Is(err, hsm.ErrLinkLost)
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

// next chooses a member for one attempt, the first or again. more: there are others to choose from.
func (p *Pool) next(client string, class Class, mech hsm.MechanismType, tried []*member, again bool) (_ *member, more bool, _ error) {
	full, lacking := false, false
	m, more := p.pick(class, again, func(m *member) bool {
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

// do runs j on the member and returns a copy of its result. reached is false when the token was asked nothing: that is no attempt, while a
// request that ends every worker it reaches must not reach them all.
func (m *member) do(ctx context.Context, j *job) (out []byte, reached bool, err error) {
	g := m.gen.Load()
	if g == nil || !g.takes() {
		return nil, false, hsm.ErrLinkLost
	}
	report, ok := m.breaker.admit(false)
	if !ok {
		return nil, false, hsm.ErrLinkLost
	}
	j.settled = report
	m.load.begin(j.entered)
	defer m.load.inflight.Add(-1)
	if !g.queue.push(j) {
		report(errAbandoned)
		return nil, false, errFull
	}
	if err := j.wait(ctx); err != nil {
		return nil, true, err
	}
	if err = j.err; err == nil {
		out = append([]byte(nil), j.op.Out...)
	}
	state := j.state.Load()
	if err != errSlow && state == finished {
		m.pool.release(j)
	}
	return out, state != abandoned, err
}

// With runs f with one session of an able member, for control-plane work of
// several steps. It never retries: f may have done half its work. f must not use the session after it has
// returned. When ctx ends first, With returns and f goes on.
func (p *Pool) With(ctx context.Context, f func(hsm.Keeper) error) error {
	m, _, err := p.next("", ClassBulk, 0, nil, false)
	if err != nil {
		return err
	}
	j := p.newJob("", nil, &hsm.Op{}, ClassBulk)
	j.with = f
	_, _, err = m.do(ctx, j)
	return err
}

// observe counts one operation that finished at a time.
func (m *member) observe(kind hsm.OpKind, class Class, sort sort, took, withQueue time.Duration, at time.Time, err error) {
	m.operations.Add(1)
	now := at.UnixNano()
	m.load.heard.Store(now)
	m.load.answered.Store(now)
	m.metrics.record(kind, took, withQueue, hsm.FaultOf(err))
	switch hsm.FaultOf(err) {
	case 0:
		m.load.observe(class, took, now)
		m.load.usual[class].observe(took, now)
		m.load.paces[sort].observe(took, now)
		if class == ClassCanary { // there is one at a time
			was := m.load.probe.Load()
			m.load.probe.Store(was + (int64(took)-was)/8)
		}
		m.canaryMu.Lock()
		m.lastCanary, m.canaryErr, m.ill = at, nil, time.Time{} // a real operation proves as much as a canary
		m.canaryMu.Unlock()
	case hsm.Caller:
	case hsm.Object:
		m.failures.Add(1)
		m.load.penalise(class, now)
		m.doubt.Store(true)
		m.misplaced(err)
	default:
		m.failures.Add(1)
		m.load.penalise(class, now)
		m.doubt.Store(true)
	}
}

// misplacedEvery is the shortest time between two alarms about keys that a member cannot use.
const misplacedEvery = time.Minute

// misplaced counts a key that the member could not use though it is able, and tells operators now and then: the member lacks
// the key or the mechanism, or holds something else in its place.
func (m *member) misplaced(err error) {
	n := m.unusable.Add(1)
	now := time.Now().UnixNano()
	if last := m.alarmed.Load(); now-last >= int64(misplacedEvery) && m.alarmed.CompareAndSwap(last, now) {
		m.log.Error("a key cannot be used on this member; other members are asked instead", "error", err, "so_far", n)
	}
}
