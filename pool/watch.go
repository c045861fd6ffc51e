package pool

import (
	"context"
	"errors"
	"keyway/hsm"
	"time"
)

// watchEvery is how often a member's watcher looks at what runs: the most by which a hung operation outlives its limit.
const watchEvery = 20 * time.Millisecond

// watch returns when the generation has ended, with the cause. Meanwhile it gives up operations that
// run too long, kills the worker when they fill the sessions, and sends the canary.
func (g *generation) watch(ctx context.Context) error {
	var died <-chan struct{}
	if p, ok := g.token.(hsm.Process); ok {
		died = p.Done()
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			g.ended.Store(true)
			return ctx.Err()
		case <-died:
			g.ended.Store(true)
			return hsm.ErrLinkLost
		case err := <-g.lost:
			return err
		case now := <-tick.C:
			g.giveUp(now)
			if g.stuck() {
				g.ended.Store(true)
				if p, ok := g.token.(hsm.Process); ok {
					p.Kill()
				}
				return hsm.ErrHung
			}
			g.quieten(now)
			g.m.maybeCanary(g, now)
			if g.tooLarge(now) && g.m.pool.otherAble(g.m) {
				return errRecycle
			}
		}
	}
}

// giveUp reports operations that run longer than their limit as hung: the C call goes on, and its permit stays taken. Callers
// whose patience has ended go elsewhere before that, while there is an elsewhere; that says nothing about the device yet.
func (g *generation) giveUp(now time.Time) {
	m, sent := g.m, 0
	room := func(j *job, brisk bool) bool { return m.pool.roomElsewhere(m, j, brisk, now) > sent }
	spend := func(j *job, brisk bool) bool {
		if !room(j, brisk) || !m.pool.budget.spend() {
			return false
		}
		sent++
		return true
	}
	for _, s := range g.slots {
		s.judge(now, spend)
	}
	m.slow.Add(uint64(g.queue.expire(func(j *job) bool {
		// Behind calls that give no answers there is nothing to wait for. It costs no budget: nothing was done that is done again.
		if j.hedged && now.Sub(j.entered) >= outlierMin && m.load.silent(j.class, now.UnixNano()) && room(j, true) {
			sent++
			return true
		}
		return j.impatient(now) && spend(j, false)
	})))
}

// judge is the watcher's look at what runs in one session. spend says whether one more caller may be sent on, brisk whether only to
// members that answer.
func (s *slot) judge(now time.Time, spend func(j *job, brisk bool) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, m := s.job, s.g.m
	switch {
	case j == nil || j.state.Load() != running:
	case now.Sub(j.started) >= j.limit:
		s.g.hung.Add(1) // first: the breaker asks for it when it hears of the job
		j.finish(hung, hsm.ErrHung)
		m.hung.Add(1)
		m.failures.Add(1)
		m.log.Error("operation hangs", "operation", j.op.Kind.String(), "after", j.limit)
	case j.met.Load():
	case j.impatient(now) && spend(j, false):
		if j.hurry() {
			m.slow.Add(1)
			m.load.penalise(j.class, now.UnixNano())
		}
	case j.outlying(now, &m.load) && spend(j, true):
		if j.hurry() { // it may be no more than slow, which is no failure
			m.slow.Add(1)
			m.load.sample(j.class, now.Sub(j.started), now.UnixNano())
		}
	}
}

// errRecycle ends a generation whose worker has grown too large.
var errRecycle = errors.New("the worker's memory has reached its limit")

// tooLarge reports, looking once a second, whether the worker's memory has reached the member's limit: libraries leak.
func (g *generation) tooLarge(now time.Time) bool {
	p, ok := g.token.(interface{ Memory() (int64, error) })
	if !ok || g.m.cfg.MaxMemory == 0 || now.Sub(g.weighed) < time.Second {
		return false
	}
	g.weighed = now
	n, err := p.Memory()
	return err == nil && n >= g.m.cfg.MaxMemory
}
