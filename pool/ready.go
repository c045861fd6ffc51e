package pool

import (
	"context"
	"time"
)

// otherAble reports whether a member other than m can serve.
func (p *Pool) otherAble(m *member) bool {
	for _, o := range *p.members.Load() {
		if o != m && o.able() {
			return true
		}
	}
	return false
}

// roomElsewhere is how many callers with a job like j members other than m can take without being more than half full: whom m's
// watcher sends on gives up a place in a queue, and must not be refused for it. brisk: only those count that do such jobs and
// have answered since this one began, for where everything is slow another try makes it slower.
func (p *Pool) roomElsewhere(m *member, j *job, brisk bool, now time.Time) int {
	room := 0
	for _, o := range *p.members.Load() {
		g := o.gen.Load()
		if o == m || g == nil || !o.able() || j.op.Mech.Type != 0 && !g.token.Info().Has(j.op.Mech.Type) {
			continue
		}
		if brisk && (o.load.avoided(j.class, now.UnixNano()) || o.load.inflight.Load() > 0 && o.load.answered.Load() < j.began().UnixNano()) {
			continue
		}
		room += max(0, (g.queue.limit+1)/2-g.queue.len())
	}
	return room
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
