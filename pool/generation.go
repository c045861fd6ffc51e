package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// watchEvery is how often a member's watcher looks at what runs: the most by which a hung operation outlives its limit.
const watchEvery = 20 * time.Millisecond

// generation is a member's token between one opening and its loss: the sessions, the queue and the
// handle cache live and die with it, so nothing of an earlier epoch can be used by mistake.
type generation struct {
	m       *member
	token   hsm.Token
	queue   *queue
	handles *handles
	slots   []*slot
	takes   atomic.Bool // takes work
	hung    atomic.Int32
	lost    chan error // the first cause to end it
	wg      sync.WaitGroup
	weighed time.Time     // when the watcher looked at the worker's memory last
	canary  atomic.Uint64 // the handle of an AES key of our own, 0 where the token cannot make one
}

// slot is one session and the goroutine that works with it.
type slot struct {
	g    *generation
	sess hsm.Session
	busy bool // the token said so to the last job

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

func (g *generation) begin(sessions []hsm.Session) {
	for _, s := range sessions {
		g.slots = append(g.slots, &slot{g: g, sess: s})
	}
	g.takes.Store(true)
	for _, s := range g.slots {
		g.wg.Add(1)
		go s.work()
	}
}

// lose ends the generation; the first cause counts.
func (g *generation) lose(cause error) {
	g.takes.Store(false)
	select {
	case g.lost <- cause:
	default:
	}
}

func (g *generation) busy() int {
	n := 0
	for _, s := range g.slots {
		if s.occupied() {
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
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			g.takes.Store(false)
			return ctx.Err()
		case <-died:
			g.takes.Store(false)
			return hsm.ErrLinkLost
		case err := <-g.lost:
			return err
		case now := <-tick.C:
			g.giveUp(now)
			if int(g.hung.Load()) >= len(g.slots) {
				g.takes.Store(false)
				if p, ok := g.token.(hsm.Process); ok {
					p.Kill()
				}
				return hsm.ErrHung
			}
			g.m.maybeCanary(g, now)
			if g.tooLarge(now) && g.m.pool.otherAble(g.m) {
				return errRecycle
			}
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

// giveUp reports operations that run longer than their limit as hung: the C call goes on, and its permit stays taken. Callers
// whose patience has ended go elsewhere before that, while there is an elsewhere; that says nothing about the device yet.
func (g *generation) giveUp(now time.Time) {
	elsewhere := g.m.pool.otherHasRoom(g.m)
	for _, s := range g.slots {
		s.judge(now, elsewhere)
	}
	if elsewhere {
		g.m.slow.Add(uint64(g.queue.expire(now, g.m.pool.budget.spend)))
	}
}

// judge is the watcher's look at what runs in one session.
func (s *slot) judge(now time.Time, elsewhere bool) {
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
	case elsewhere && j.impatient(now) && !j.met.Load() && m.pool.budget.spend() && j.hurry():
		m.slow.Add(1)
		m.load.penalise(j.class)
	}
}

// close ends the generation: what waits is dropped, what runs is waited for, then the token is closed.
// A worker that does not let go within a second is killed. A library in this process that hangs cannot be ended: its token is
// not opened again until its calls have returned, so that hung threads do not pile up, or ctx has ended.
func (g *generation) close(ctx context.Context, cause error) {
	g.takes.Store(false)
	g.queue.close(cause)
	idle := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(idle)
	}()
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
		if p, ok := g.token.(hsm.Process); ok {
			p.Kill()
			<-idle
			break
		}
		g.m.log.Error("calls into the token's library do not return; the member stays out until they do. Run it in a worker process")
		select {
		case <-idle:
		case <-ctx.Done():
			t.Reset(g.m.pool.cfg.OpTimeout)
			select {
			case <-idle:
			case <-t.C:
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
		goes := s.run(j)
		g.queue.done(s.busy)
		if !goes {
			return
		}
	}
}

// run runs one job and reports whether the session, or a new one in its place, can take another.
func (s *slot) run(j *job) bool {
	g := s.g
	begun := time.Now()
	j.started = begun
	s.busy = false
	if !j.state.CompareAndSwap(queued, running) {
		return true // its caller left at this moment
	}
	s.set(j)
	entered, class, kind := j.entered, j.class, j.op.Kind
	lost, err := s.attempt(j)
	if lost == nil && hsm.FaultOf(err) == hsm.Suspect {
		err = g.m.judge(s, err)
	}
	took := time.Since(begun)
	s.set(nil)
	s.busy = hsm.FaultOf(err) == hsm.Busy
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
	if errors.Is(cause, hsm.ErrLinkLost) || !g.takes.Load() {
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
