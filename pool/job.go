package pool

import (
	"context"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// A job's states. Whoever moves a job to its last state, and nobody else,
// reports it: to the caller, to the breaker and to the counters.
//
//	queued → running → finished | hung (by the watcher)
//	queued → abandoned (by its caller, or because its member was lost)
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
	left  atomic.Bool // the caller has gone: the result is nobody's and is wiped

	key   *Key
	op    hsm.Op
	with  func(hsm.Keeper) error
	class Class

	buf     []byte // backs op.In and op.Mech.AAD
	entered time.Time
	started atomic.Int64 // UnixNano, when running
	err     error
	done    chan struct{} // one value when the job has reached its last state, unless its caller abandoned it
	settled func(error)   // the breaker's report, called once: by whoever moves the job to its last state
}

func (p *Pool) newJob(k *Key, op *hsm.Op, class Class) *job {
	j, ok := p.jobs.Get().(*job)
	if !ok {
		j = &job{done: make(chan struct{}, 1)}
	}
	j.state.Store(queued)
	j.left.Store(false)
	j.key, j.class, j.err, j.with = k, class, nil, nil
	j.op.Kind, j.op.Len, j.op.Key, j.op.Err = op.Kind, op.Len, 0, nil
	j.op.Mech.Type, j.op.Mech.Hash = op.Mech.Type, op.Mech.Hash
	j.buf = append(append(j.buf[:0], op.In...), op.Mech.AAD...)
	n := len(op.In)
	j.op.In, j.op.Mech.AAD = j.buf[:n:n], j.buf[n:]
	j.entered = time.Now()
	return j
}

// release wipes the job and gives it back. Only a caller that has seen it finish may do that;
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
	j.tell(err)
	return true
}

func (j *job) tell(err error) {
	if j.settled != nil {
		j.settled(err)
	}
	j.err = err
	if j.left.Load() {
		if j.state.Load() == finished {
			j.wipe()
		}
		return
	}
	j.done <- struct{}{}
}

// drop gives up a job that has not begun, because its member cannot run it any more.
func (j *job) drop(err error) {
	if j.state.CompareAndSwap(queued, abandoned) {
		j.tell(err)
	}
}

// wait blocks until the job has ended or the caller's time has. When it returns an error of ctx, the
// job is no longer the caller's to touch.
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
		if j.settled != nil {
			j.settled(errAbandoned)
		}
		return ctx.Err()
	}
	j.left.Store(true)
	return ctx.Err()
}
