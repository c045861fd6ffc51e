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

// How soon readiness tells the truth.
const (
	quietAfter = 500 * time.Millisecond // a member that lets everything wait for so long does not serve
	quietNew   = 2 * time.Second        // the same while it is not known how long its operations take
	proveEvery = 250 * time.Millisecond // canaries, while somebody asks
	proveFor   = 300 * time.Millisecond // how long after the last question
)

// Ready reports whether some member has proved able within the last 10 s and does not let its work wait. It asks no token anything, but
// while it is called more often than once in 300 ms, members that have nothing else to do prove themselves four times a second, so
// that it is false a second after the last one has failed.
func (p *Pool) Ready() bool {
	p.wondered.Store(time.Now().UnixNano())
	return p.ready()
}

func (p *Pool) ready() bool {
	for _, m := range *p.members.Load() {
		m.canaryMu.Lock()
		ok := m.canaryErr == nil && !m.lastCanary.IsZero() && time.Since(m.lastCanary) <= readyFor
		m.canaryMu.Unlock()
		if g := m.gen.Load(); ok && m.able() && g != nil && !g.quiet.Load() {
			return true
		}
	}
	return false
}

// quieten notes whether the generation answers nothing although everything that runs should have been answered by now.
func (g *generation) quieten(now time.Time) {
	quiet := false
	if now.UnixNano()-g.m.load.answered.Load() >= int64(quietAfter) {
		for _, s := range g.slots {
			waits, late := s.overdue(now)
			if waits && !late {
				quiet = false
				break
			}
			quiet = quiet || late
		}
	}
	g.quiet.Store(quiet)
}

// overdue reports whether an operation is in the session, and whether it has been there for much longer than its like. Work of several
// steps takes the time it takes.
func (s *slot) overdue(now time.Time) (waits, late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.job
	if j == nil || j.class == ClassBulk {
		return false, false
	}
	p, limit := &s.g.m.load.paces[j.sort], quietAfter
	switch {
	case j.class == ClassCanary:
		limit = max(limit, 4*time.Duration(s.g.m.load.probe.Load()))
	case p.seen.Load() == 0:
		limit = quietNew
	default:
		limit = max(limit, p.times(outlierTimes))
	}
	return true, now.Sub(j.started) >= limit
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
