package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// generation is a member's token between one opening and its loss: the sessions, the queue and the
// handle cache live and die with it, so nothing of an earlier epoch can be used by mistake.
type generation struct {
	m       *member
	token   hsm.Token
	queue   *queue
	handles *handles
	slots   []*slot
	open    atomic.Bool // takes work
	hung    atomic.Int32
	lost    chan error // the first cause to end it
	wg      sync.WaitGroup
	canary  hsm.Handle // an AES key of our own, 0 where the token cannot make one
}

// slot is one session and the goroutine that works with it.
type slot struct {
	g    *generation
	sess hsm.Session
	job  atomic.Pointer[job] // what runs now
}

func (g *generation) begin(sessions []hsm.Session) {
	for _, s := range sessions {
		g.slots = append(g.slots, &slot{g: g, sess: s})
	}
	g.open.Store(true)
	for _, s := range g.slots {
		g.wg.Add(1)
		go s.work()
	}
}

// lose ends the generation; the first cause counts.
func (g *generation) lose(cause error) {
	g.open.Store(false)
	select {
	case g.lost <- cause:
	default:
	}
}

func (g *generation) busy() int {
	n := 0
	for _, s := range g.slots {
		if s.job.Load() != nil {
			n++
		}
	}
	return n
}

// watch returns when the generation has ended, with the cause. Meanwhile it gives up operations that
// run too long, kills the worker when they fill the sessions, and sends the canary.
func (g *generation) watch(ctx context.Context) error {
	var died <-chan struct{}
	if p, ok := g.token.(hsm.Process); ok {
		died = p.Done()
	}
	cfg := &g.m.pool.cfg
	tick := time.NewTicker(min(cfg.OpTimeout/8, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			g.open.Store(false)
			return ctx.Err()
		case <-died:
			g.open.Store(false)
			return hsm.ErrLinkLost
		case err := <-g.lost:
			return err
		case now := <-tick.C:
			g.giveUp(now, cfg.OpTimeout)
			if int(g.hung.Load()) >= len(g.slots) {
				g.open.Store(false)
				if p, ok := g.token.(hsm.Process); ok {
					p.Kill()
				}
				return hsm.ErrHung
			}
			g.m.maybeCanary(g, now)
		}
	}
}

// giveUp reports operations that run longer than limit as hung. The C call goes on, and its permit stays taken.
func (g *generation) giveUp(now time.Time, limit time.Duration) {
	for _, s := range g.slots {
		j := s.job.Load()
		if j == nil || j.state.Load() != running || now.UnixNano()-j.started.Load() < int64(limit) {
			continue
		}
		g.hung.Add(1)
		if j.finish(hung, hsm.ErrHung) {
			g.m.hung.Add(1)
			g.m.failures.Add(1)
			g.m.log.Error("operation hangs", "operation", j.op.Kind.String(), "after", limit)
		} else {
			g.hung.Add(-1)
		}
	}
}

// close ends the generation: what waits is dropped, what runs is waited for, then the token is closed.
// A worker that does not let go within a second is killed; a library in this process that
// hangs cannot be ended, so its goroutines are left behind and said so.
func (g *generation) close(cause error) {
	g.open.Store(false)
	g.queue.close(cause)
	idle := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(idle)
	}()
	p, isProcess := g.token.(hsm.Process)
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
		if isProcess {
			p.Kill()
			<-idle
		} else {
			t.Reset(g.m.pool.cfg.OpTimeout)
			select {
			case <-idle:
			case <-t.C:
				g.m.log.Error("calls into the token's library do not return; their threads are lost. Run the member in a worker process")
				return // closing the token under them would crash the process
			}
		}
	}
	_ = g.token.Close()
}

// work is a session's goroutine: it takes jobs until the queue is closed or the session cannot be had again.
func (s *slot) work() {
	g := s.g
	defer g.wg.Done()
	defer func() { _ = s.sess.Close() }()
	for {
		j := g.queue.pop()
		if j == nil {
			return
		}
		if !s.run(j) {
			return
		}
	}
}

// run runs one job and reports whether the session, or a new one in its place, can take another.
func (s *slot) run(j *job) bool {
	g := s.g
	j.started.Store(time.Now().UnixNano())
	if !j.state.CompareAndSwap(queued, running) {
		return true // its caller left while it waited
	}
	s.job.Store(j)
	entered, class, kind := j.entered, j.class, j.op.Kind
	begun := time.Now()
	lost, err := s.attempt(j)
	if lost == nil && hsm.FaultOf(err) == hsm.Suspect {
		err = g.m.judge(s, err)
	}
	took := time.Since(begun)
	s.job.Store(nil)
	if j.finish(finished, err) {
		g.m.observe(kind, class, took, time.Since(entered), err)
	} else {
		g.hung.Add(-1) // given up before it came back
		j.wipe()
	}
	return lost == nil || s.reopen(lost)
}

// attempt runs the job once, and once more after a Stale fault. lost is why the session is of no more use.
func (s *slot) attempt(j *job) (lost, err error) {
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
			lost = nil
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
	e, err := h.acquire(j.key, s.sess)
	if err != nil {
		if hsm.FaultOf(err) == hsm.Caller {
			// The blob is ours, not the caller's: it does not open under this member's KEK.
			err = errors.Join(hsm.ErrNotFound, err)
		}
		return sessionLost(err), err
	}
	defer h.release(e, s.sess)
	j.op.Key = e.handle
	lost = s.sess.Do(&j.op)
	err = j.op.Err
	if err == nil {
		return lost, s.checkFirst(j, e)
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

// checkFirst verifies the first signature of a newly loaded handle with the public half before
// anybody sees it: a handle that names another key must never sign for this one.
func (s *slot) checkFirst(j *job, e *entry) error {
	if j.op.Kind != hsm.OpSign || j.key.Public == nil || e.verified.Load() {
		return nil
	}
	if err := hsm.Verify(j.key.Public, j.op.Mech, j.op.In, j.op.Out); err != nil {
		s.g.handles.drop(e)
		clear(j.op.Out)
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
	_ = s.sess.Close()
	if errors.Is(cause, hsm.ErrLinkLost) || !g.open.Load() {
		g.lose(cause)
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.m.pool.cfg.OpTimeout)
	defer cancel()
	sess, err := g.token.OpenSession(ctx)
	if err != nil {
		g.lose(errors.Join(err, cause))
		return false
	}
	s.sess = sess
	return true
}
