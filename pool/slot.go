package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"keyway/hsm"
)

// slot is one session and the goroutine that works with it.
type slot struct {
	g    *generation
	sess hsm.Session
	busy bool      // the token said so to the last job
	from time.Time // when the last job began

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
		_ = s.sess.Close()
	}()
	for {
		j := g.queue.pop()
		if j == nil {
			return
		}
		goes := s.run(j)
		g.queue.done(s.busy, s.from)
		if !goes {
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
	entered, class, kind, sort := j.entered, j.class, j.op.Kind, j.sort
	lost, err := s.attempt(j)
	if lost == nil && hsm.FaultOf(err) == hsm.Suspect {
		err = g.judge(s, err)
	}
	took := time.Since(begun)
	s.set(nil)
	s.busy = hsm.FaultOf(err) == hsm.Busy
	if j.finish(finished, err) {
		g.m.observe(kind, class, sort, took, time.Since(entered), err)
	} else {
		g.hung.Add(-1) // given up before it came back
		j.wipe()
	}
	return lost == nil || s.reopen(lost)
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
		return nil, j.with(k)
	}
	for try := 0; ; try++ {
		lost, err = s.once(j)
		if hsm.FaultOf(err) != hsm.Stale || try > 0 {
			// A handle that is stale twice over is the key's trouble on this token, not the session's.
			if try > 0 && hsm.FaultOf(err) == hsm.Stale && lost == nil {
				err = errors.Join(hsm.ErrNotFound, err)
			}
			return lost, err
		}
		if lost != nil {
			if !s.reopen(lost) {
				return lost, err
			}
		}
	}
}

// once loads the key if need be and runs the operation.
func (s *slot) once(j *job) (lost, err error) {
	if j.key == nil {
		lost = s.sess.Do(&j.op)
		return lost, j.op.Err
	}
	h := s.g.handles
	e, lost, err := h.acquire(j.key, s.sess)
	if err != nil {
		if hsm.FaultOf(err) == hsm.Caller {
			// The blob is ours, not the caller's: it does not open under this member's KEK.
			err = errors.Join(hsm.ErrNotFound, err)
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
	}
	return lost, err
}

// sessionLost tells whether a failed load took the session with it.
func sessionLost(err error) error {
	var te *hsm.Error
	if errors.As(err, &te) {
		switch te.Code {
		case hsm.SessionHandleInvalid, hsm.SessionClosed, hsm.CryptokiNotInitialized, hsm.OperationActive:
			return err
		}
	}
	if errors.Is(err, hsm.ErrClosed) || errors.Is(err, hsm.ErrLinkLost) {
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

// reopen replaces a lost session. When that fails the generation has ended.
func (s *slot) reopen(cause error) bool {
	g := s.g
	g.handles.orphan(s.sess)
	if errors.Is(cause, hsm.ErrLinkLost) || g.ended.Load() {
		g.lose(cause)
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.m.pool.cfg.OpTimeout)
	defer cancel()
	if err := s.replace(ctx); err != nil {
		g.lose(errors.Join(err, cause))
		return false
	}
	return true
}

// replace puts a new session in the place of a lost one.
func (s *slot) replace(ctx context.Context) (err error) {
	defer caught(&err)
	_ = s.sess.Close()
	sess, err := s.g.token.OpenSession(ctx)
	if err == nil {
		s.sess = sess
	}
	return err
}
