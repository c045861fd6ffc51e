package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"keyway/hsm"
)

// slot is one session and the goroutine that works with it.
type slot struct {
	g    *generation
	sess hsm.Session // nil while the token takes no more sessions
	busy bool        // the token said so to the last job
	from time.Time   // when the last job began
	dead int         // sessions that the token dropped since this slot last had a call answered

	mu  sync.Mutex
	job *job // what runs now; whoever holds mu and finds it here may look at it, for it is not told and given back meanwhile
}

// occupied reports whether a job runs.
func (s *slot) occupied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.job != nil
}

func (s *slot) set(j *job) {
	s.mu.Lock()
	s.job = j
	s.mu.Unlock()
}

// work is a session's goroutine: it takes jobs until the queue is closed or the session cannot be had again.
func (s *slot) work() {
	g := s.g
	defer g.wg.Done()
	defer func() {
		var err error
		defer caught(&err)
		if s.sess != nil {
			_ = s.sess.Close()
		}
	}()
	for {
		j := g.queue.pop()
		if j == nil {
			return
		}
		goes := s.run(j)
		g.queue.done(s.busy, s.from)
		if !goes && (s.sess != nil || !s.regain()) {
			return
		}
	}
}

// run runs one job and reports whether the session, or a new one in its place, can take another.
func (s *slot) run(j *job) bool {
	g := s.g
	begun := time.Now()
	j.started, s.from = begun, begun
	s.busy = false
	if !j.state.CompareAndSwap(queued, running) {
		return true // its caller left at this moment
	}
	s.set(j)
	g.m.load.run(begun)
	defer g.m.load.end()
	entered, class, kind, sort := j.entered, j.class, j.op.Kind, j.sort
	lost, err := s.attempt(j)
	if lost == nil && hsm.FaultOf(err) == hsm.Suspect {
		lost, err = g.judge(s, err)
	}
	if hsm.FaultOf(err) == hsm.Locked && j.with == nil { // a token that refuses the PIN it took is not to be asked again
		g.lose(err)
	}
	ended := time.Now()
	s.set(nil)
	s.busy = hsm.FaultOf(err) == hsm.Busy
	if j.finish(finished, err) {
		g.m.observe(kind, class, sort, ended.Sub(begun), ended.Sub(entered), ended, err)
	} else {
		g.hung.Add(-1) // given up before it came back
		j.wipe()
	}
	if lost == nil {
		s.dead = 0
		return true
	}
	return s.sess != nil && s.reopen(lost)
}

// attempt runs the job once, and once more after a Stale fault. lost is why the session is of no more use.
func (s *slot) attempt(j *job) (lost, err error) {
	defer func() {
		if err != nil && logPanic(s.g.m.log, err) {
			lost = err // nobody knows what it left behind
		}
	}()
	defer caught(&err)
	if j.with != nil {
		k, ok := s.sess.(hsm.Keeper)
		if !ok {
			return nil, hsm.ErrUnsupported
		}
		err = j.with(k)
		if lost = sessionLost(err); lost != nil && j.class != ClassCanary {
			lost = hsm.ErrClosed // what f says may be another token's word: what is left of this one shows when the session is replaced
		}
		return lost, err
	}
	for try := 0; ; try++ {
		lost, err = s.once(j, try > 0)
		if hsm.FaultOf(err) != hsm.Stale || try > 0 {
			return lost, err
		}
		if lost != nil {
			if !s.reopen(lost) {
				return lost, err
			}
		}
	}
}

// once loads the key if need be and runs the operation. again: its handle was stale before.
func (s *slot) once(j *job, again bool) (lost, err error) {
	j.op.Err = nil
	if j.key == nil {
		lost = s.sess.Do(&j.op)
		return lost, j.op.Err
	}
	h := s.g.handles
	e, lost, err := h.acquire(j.key, s.sess)
	if err != nil {
		if f := hsm.FaultOf(err); f == hsm.Caller || f == hsm.Stale && again && !hsm.CodeOf(err).EndsSession() {
			// The blob is ours, not the caller's: it does not open under this member's KEK, or the KEK is gone.
			err = &blamed{err, hsm.ErrNotFound}
		}
		return lost, err
	}
	defer h.release(e, s.sess)
	j.op.Key = e.handle
	lost = s.sess.Do(&j.op)
	err = j.op.Err
	if err == nil {
		return lost, s.check(j, e)
	}
	if hsm.FaultOf(err) == hsm.Stale {
		h.drop(e)
		// One that is stale as soon as this session has loaded it is the key's trouble on this token. One of another session may
		// have been lost with that.
		if again && lost == nil && (e.resident || e.owner == s.sess) {
			err = &blamed{err, hsm.ErrNotFound}
		}
	}
	return lost, err
}

// sessionLost tells whether a failed load took the session with it.
func sessionLost(err error) error {
	if hsm.CodeOf(err).EndsSession() || errors.Is(err, hsm.ErrClosed) || errors.Is(err, hsm.ErrLinkLost) {
		return err
	}
	return nil
}

// check verifies the first signature of a newly loaded handle, or every one, with the public half before
// anybody sees it: a handle that names another key must never sign for this one. A handle that was right before has not
// changed its key: then the device computes wrongly.
func (s *slot) check(j *job, e *entry) error {
	first := !e.verified.Load()
	if j.op.Kind != hsm.OpSign || j.key.Public == nil || !first && !s.g.m.pool.cfg.VerifyAll {
		return nil
	}
	if err := hsm.Verify(j.key.Public, j.op.Mech, j.op.In, j.op.Out); err != nil {
		s.g.handles.drop(e)
		clear(j.op.Out)
		if !first {
			s.g.m.log.Error("a signature does not verify: the member's device computes wrongly", "key_version", e.id)
			return fmt.Errorf("%w: the signature does not verify with the key's public half", errDevice)
		}
		s.g.m.log.Error("the first signature of a loaded key does not verify: the member holds something else under this key's ID", "key_version", e.id)
		return errors.Join(hsm.ErrNotFound, errors.New("the signature does not verify with the key's public half"))
	}
	e.verified.Store(true)
	return nil
}

// mostDead is how many sessions in a row the token may drop without a call in between that it answered: sessions that die as soon
// as they are opened are no sessions, and opening more of them is a load on the token that nobody has anything of.
const mostDead = 3

// reopen replaces a lost session. When that fails the generation has ended, or, while the token takes no more sessions, the slot
// has none.
func (s *slot) reopen(cause error) bool {
	g := s.g
	g.handles.orphan(s.sess)
	if dropped(cause) {
		s.dead++
	}
	switch {
	case errors.Is(cause, hsm.ErrLinkLost), hsm.CodeOf(cause).EndsToken(), g.ended.Load():
		g.lose(cause)
		return false
	case s.dead > mostDead:
		g.lose(fmt.Errorf("its sessions die as soon as they are opened: %w", cause))
		return false
	}
	return s.open(cause)
}

// dropped reports whether a session was lost because the token had forgotten it.
func dropped(cause error) bool {
	switch hsm.CodeOf(cause) {
	case hsm.SessionHandleInvalid, hsm.SessionClosed, hsm.UserNotLoggedIn:
		return true
	}
	return false
}

// open puts a new session in the place of one that was lost by cause.
func (s *slot) open(cause error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), s.g.m.pool.cfg.OpTimeout)
	defer cancel()
	err := s.replace(ctx)
	if err != nil && hsm.FaultOf(err) != hsm.Busy {
		s.g.lose(errors.Join(err, cause))
	}
	return err == nil
}

// replace closes the slot's session and opens another one. A token that takes no more sessions leaves it without.
func (s *slot) replace(ctx context.Context) (err error) {
	defer caught(&err)
	if s.sess != nil {
		_ = s.sess.Close()
	}
	sess, err := s.g.token.OpenSession(ctx)
	if err == nil {
		s.sess = sess
	} else if hsm.FaultOf(err) == hsm.Busy {
		s.sess = nil
	}
	return err
}

// Bounds of the time after which a slot without a session asks the token for one again, before jitter.
const (
	regainMin = time.Second
	regainMax = time.Minute
)

// regain waits until the token takes a session more. Meanwhile the member runs one operation fewer at once. It reports whether
// the slot has a session again; when no slot has one the generation ends.
func (s *slot) regain() bool {
	g := s.g
	if int(g.out.Add(1)) == len(g.slots) {
		g.lose(errNoSessions)
		return false
	}
	g.queue.resize(-1)
	g.m.log.Warn("the token takes no more sessions", "open", g.sessions(), "wanted", len(g.slots))
	for wait := regainMin; ; wait = min(2*wait, regainMax) {
		if !pause(g.ctx, wait*3/4+rand.N(wait/2)) {
			return false
		}
		if s.open(errNoSessions) {
			g.out.Add(-1)
			g.queue.resize(1)
			return true
		}
		if g.ended.Load() { // no matter of capacity any more
			return false
		}
	}
}

// errNoSessions is why a member whose token takes no session at all is opened anew.
var errNoSessions = &hsm.Error{Code: hsm.SessionCount, Function: hsm.FnOpenSession}
