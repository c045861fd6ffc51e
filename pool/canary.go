package pool

import (
	"errors"
	"fmt"
	"time"

	"keyway/hsm"
)

// readyFor is how long one proof that a member works counts for readiness.
const readyFor = 10 * time.Second

// suspectEvery is the shortest time between two canaries that a Suspect code may cause on one member.
const suspectEvery = time.Second

// makeCanary makes the key the canary encrypts with, on tokens that can.
func (g *generation) makeCanary(sess hsm.Session) error {
	k, ok := sess.(hsm.Keeper)
	if info := g.token.Info(); !ok || !info.Has(hsm.AESKeyGen) || !info.Has(hsm.AESGCM) {
		return nil
	}
	h, err := k.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 256, Label: "keyway-canary", ID: []byte("keyway-canary"), May: hsm.MayEncrypt})
	g.canary.Store(uint64(h))
	return err
}

// probe runs the canary on one session: random bytes, and an encryption with a key of our own.
func (g *generation) probe(sess hsm.Session) (err error) {
	defer caught(&err)
	op := hsm.Op{Kind: hsm.OpRandom, Len: 16}
	if err := sess.Do(&op); err != nil {
		return err
	}
	h := hsm.Handle(g.canary.Load())
	if op.Err != nil || h == 0 {
		return op.Err
	}
	in := op.Out
	for try := 0; ; try++ {
		op = hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: h, In: in}
		if err := sess.Do(&op); err != nil {
			return err
		}
		if hsm.FaultOf(op.Err) != hsm.Stale || try > 0 {
			return op.Err
		}
		// The key went with the session that made it, or more than that is gone: then no new one can be made.
		if err := g.makeCanary(sess); err != nil {
			return err
		}
		h = hsm.Handle(g.canary.Load())
	}
}

// trial is a canary that a Suspect code caused.
type trial struct {
	at   time.Time
	done chan struct{} // closed when err is there
	err  error
}

// judge decides a Suspect code by a canary on the same session: if that passes, the input seems to be
// to blame. At most one canary a second: who comes while it is under way waits for it, and until the next one its
// verdict holds. That others had an operation done meanwhile is no verdict: a token that has begun to fail did well a moment ago.
// lost is why the session is of no more use after it.
func (g *generation) judge(s *slot, err error) (lost, judged error) {
	g.trialMu.Lock()
	t := g.trial
	mine := t == nil || t.over() && time.Since(t.at) >= suspectEvery
	if mine {
		t = &trial{at: time.Now(), done: make(chan struct{})}
		g.trial = t
	}
	g.trialMu.Unlock()
	if mine {
		t.err = g.probe(s.sess)
		lost = sessionLost(t.err)
		g.m.proved(t.err)
		close(t.done)
	} else {
		<-t.done
	}
	if t.err == nil {
		return nil, &blamed{err, hsm.ErrInput}
	}
	return lost, &blamed{err, errDevice}
}

func (t *trial) over() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// errDevice has no fault of its own, which makes it the device's.
var errDevice = errors.New("device")

// blamed is an error after a verdict on it: its text is the token's, its fault the verdict's.
type blamed struct {
	err     error
	verdict error
}

func (b *blamed) Error() string { return b.err.Error() }
func (b *blamed) Unwrap() error { return b.verdict }

func (m *member) proved(err error) {
	m.canaryMu.Lock()
	defer m.canaryMu.Unlock()
	m.lastCanary, m.canaryErr = time.Now(), err
	switch {
	case err == nil:
		m.ill = time.Time{}
	case m.ill.IsZero():
		m.ill = m.lastCanary
	}
}

// incurable reports, once in a while, that canaries have failed for so long that only opening the token anew may help: libraries
// that lost their device do not all find it again by themselves.
func (m *member) incurable() bool {
	m.canaryMu.Lock()
	defer m.canaryMu.Unlock()
	if m.breaker.closed.Load() || m.ill.IsZero() || time.Since(m.ill) < m.pool.cfg.RestartAfter {
		return false
	}
	m.ill = time.Time{}
	return true
}

// maybeCanary sends the canary when it is due: by the pool's period while the breaker is
// closed, by the breaker's own time-table while it is not.
func (m *member) maybeCanary(g *generation, now time.Time) {
	if !g.takes() {
		return // it is drained, which would have to wait for the canary
	}
	if m.breaker.closed.Load() {
		m.canaryMu.Lock()
		// After a failure the canary goes at once, but at most once a second: callers avoid a
		// member that failed, so without it nothing would decide whether it is ill.
		every := m.pool.cfg.CanaryEvery
		if m.canaryErr != nil || m.doubt.Load() {
			every = suspectEvery
		}
		if now.UnixNano()-m.pool.wondered.Load() < int64(proveFor) {
			every = proveEvery
		}
		due := now.Sub(m.lastCanary) >= every && now.Sub(m.asked) >= every
		m.canaryMu.Unlock()
		if !due {
			return
		}
	} else if now.Before(m.breaker.due(!m.pool.otherAble(m))) {
		return
	}
	if !g.probing.CompareAndSwap(false, true) {
		return
	}
	report, ok := m.breaker.admit(true)
	if !ok {
		g.probing.Store(false)
		return
	}
	m.canaryMu.Lock()
	m.asked = now
	m.canaryMu.Unlock()
	m.doubt.Store(false)
	j := m.pool.newJob("", nil, &hsm.Op{}, ClassCanary)
	j.with = func(k hsm.Keeper) error { return g.probe(k) }
	j.settled = func(err error) {
		defer g.probing.Store(false)
		if errors.Is(err, errAbandoned) { // the generation ended before its turn came
			report(err)
			return
		}
		m.proved(err)
		switch {
		case err == nil:
			m.breaker.healthy()
		case hsm.FaultOf(err) == hsm.Stale, hsm.FaultOf(err) == hsm.Locked, hsm.CodeOf(err).EndsToken():
			g.lose(err) // sessions are mended one by one; a canary that cannot be run in a whole one has lost the login
		case g.killable() && m.incurable():
			g.lose(fmt.Errorf("its canaries have failed for %s or longer: %w", m.pool.cfg.RestartAfter, err))
		}
		if f := hsm.FaultOf(err); f != 0 && f != hsm.Device && f != hsm.Busy {
			err = &blamed{err, errDevice} // nothing but the device is to blame for a failed canary
		}
		report(err)
	}
	j.met.Store(true) // nobody waits for it
	if !g.queue.push(j) {
		j.settled(errAbandoned)
	}
}
