package pool

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// A job's states. Whoever moves a job to its last state, and nobody else,
// reports it: to the caller, to the breaker and to the counters.
//
//	queued → running → finished | hung (by the watcher)
//	queued → abandoned (by its caller, by the watcher, or because its member was lost)
//
// Beside it, met settles what the caller hears: the first of the one who tells the outcome, the watcher
// who sends the caller on, and the caller who leaves.
const (
	queued int32 = iota
	running
	finished
	abandoned
	hung
)

// job is one attempt at one operation on one member. It owns copies of its
// bytes, since a C call that its caller no longer waits for goes on reading them.
type job struct {
	state atomic.Int32
	met   atomic.Bool // the caller has heard something or has gone: a later result is nobody's and is wiped

	key    *Key
	op     hsm.Op
	with   func(hsm.Keeper) error
	class  Class
	sort   sort
	client string // who asked

	buf      []byte // backs op.In and op.Mech.AAD
	entered  time.Time
	patience time.Duration // how long the caller waits here while another member could serve it, 0 for as long as it takes
	hedged   bool          // another member can serve the caller, which is sent there sooner when this one takes unusually long
	limit    time.Duration // how long it may run before it counts as hung
	started  time.Time     // when running
	err      error         // what the caller hears
	done     chan struct{} // one value when the caller is to hear it
	settled  func(error)   // the breaker's report, called once: by whoever moves the job to its last state
}

// errSlow sends a caller on to another member. What the slow one answers later is nobody's; it says nothing about the device.
var errSlow = fmt.Errorf("%w: the member did not answer soon enough, and the caller was sent on to another", errAbandoned)

func (p *Pool) newJob(client string, k *Key, op *hsm.Op, class Class) *job {
	j, ok := p.jobs.Get().(*job)
	if !ok {
		j = &job{done: make(chan struct{}, 1)}
	}
	j.state.Store(queued)
	j.met.Store(false)
	j.key, j.class, j.client, j.err, j.with = k, class, client, nil, nil
	j.sort, j.hedged = sortOf(k, op, class), false
	j.op.Kind, j.op.Len, j.op.Key, j.op.Err = op.Kind, op.Len, 0, nil
	j.op.Mech.Type, j.op.Mech.Hash = op.Mech.Type, op.Mech.Hash
	j.buf = append(append(j.buf[:0], op.In...), op.Mech.AAD...)
	n := len(op.In)
	j.op.In, j.op.Mech.AAD = j.buf[:n:n], j.buf[n:]
	j.entered, j.patience, j.limit = time.Now(), 0, p.cfg.OpTimeout
	if class == ClassBulk {
		j.limit = p.cfg.BulkTimeout
	}
	return j
}

// release wipes the job and gives it back. Only a caller that has heard the outcome of a finished job may do that;
// a job left behind is the collector's.
func (p *Pool) release(j *job) {
	j.wipe()
	if cap(j.buf) > 64<<10 || cap(j.op.Out) > 64<<10 {
		return
	}
	j.key, j.settled, j.with = nil, nil, nil
	p.jobs.Put(j)
}

func (j *job) wipe() {
	clear(j.buf)
	clear(j.op.Out)
}

// finish moves a running job to its last state and tells the caller. It reports whether it was the one to do so.
func (j *job) finish(to int32, err error) bool {
	if !j.state.CompareAndSwap(running, to) {
		return false
	}
	j.settle(err)
	j.tell(err)
	return true
}

// settle reports the job to the breaker.
func (j *job) settle(err error) {
	if j.settled != nil {
		j.settled(err)
	}
}

func (j *job) tell(err error) {
	if j.met.Swap(true) {
		if j.state.Load() == finished {
			j.wipe()
		}
		return
	}
	j.err = err
	j.done <- struct{}{}
}

// drop gives up a job that has not begun, because its member cannot run it any more. It reports whether it was still waiting.
func (j *job) drop(err error) bool {
	if !j.state.CompareAndSwap(queued, abandoned) {
		return false
	}
	j.settle(errAbandoned) // whatever the caller hears, nothing was asked of the token
	j.tell(err)
	return true
}

// impatient reports whether the caller has waited as long as it will while another member could serve it.
func (j *job) impatient(now time.Time) bool {
	return j.patience > 0 && now.Sub(j.entered) >= j.patience
}

// began is when the job's turn came, or while it waits, when it came.
func (j *job) began() time.Time {
	if j.state.Load() == queued {
		return j.entered
	}
	return j.started
}

// outlying reports whether the job runs so much longer than usual on a member, or the member gives so little sign of life, that its
// caller is better served by another.
func (j *job) outlying(now time.Time, l *load) bool {
	runs := now.Sub(j.started)
	if !j.hedged || runs < outlierMin {
		return false
	}
	p := &l.paces[j.sort]
	limit := p.outlier()
	return limit > 0 && runs >= limit || runs >= p.times(2) && l.silent(j.class, now.UnixNano())
}

// hurry sends the caller of a running job on to another member; the job goes on, and its member hears of its end.
func (j *job) hurry() bool {
	if j.met.Swap(true) {
		return false
	}
	j.err = errSlow
	j.done <- struct{}{}
	return true
}

// wait blocks until the caller hears of the job, or its time has come. The caller may touch the job afterwards only
// when wait returned nil and the job is finished.
func (j *job) wait(ctx context.Context) error {
	select {
	case <-j.done:
		return nil
	default:
	}
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
	}
	if j.state.CompareAndSwap(queued, abandoned) {
		// Whoever takes it from the queue drops it; nothing was asked of the token.
		j.settle(errAbandoned)
		return ctx.Err()
	}
	if j.met.Swap(true) { // it was told at this moment
		<-j.done
		return nil
	}
	return ctx.Err()
}
