package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// yieldMost bounds how long an answer may wait so that others travel with it: as long as one trip costs.
const yieldMost = 50 * time.Microsecond

// served is the worker's side of a session, with the goroutine that runs its calls.
type served struct {
	server *server
	id     uint32
	ctx    context.Context // ends when the session is closed
	cancel context.CancelFunc

	// free is true while no call is under way. The receiver may touch what follows only then; work, which has
	// room for the one call, hands it over.
	free atomic.Bool
	body []byte // a copy of the question's fields, since the receiver goes on
	q    question
	work chan struct{}
	// closeSeq is the number of the question that closes the session, 0 when nobody waits. Set before work is closed.
	closeSeq uint32

	session hsm.Session
	op      hsm.Op // its Out is reused
	a       answer
	handle  [8]byte
}

func newServed(s *server, id uint32) *served {
	ss := &served{server: s, id: id, work: make(chan struct{}, 1)}
	ss.ctx, ss.cancel = context.WithCancel(s.ctx)
	ss.free.Store(true)
	s.wg.Add(1)
	go ss.run()
	return ss
}

// put is the receiver's: it hands a question over. The error is a parent that has lost count.
func (ss *served) put(h head, f fields) error {
	if !ss.free.CompareAndSwap(true, false) {
		return fmt.Errorf("%w: two calls at once in session %d", errFrame, ss.id)
	}
	if cap(ss.body) < len(f.b) || cap(ss.body) > keepSize && len(f.b) <= keepSize {
		ss.body = make([]byte, 0, max(len(f.b), 256))
	}
	ss.body = append(ss.body[:0], f.b...)
	ss.q = question{head: h}
	if err := ss.q.parse(&fields{b: ss.body}); err != nil {
		return err
	}
	ss.server.busy.Add(1)
	ss.work <- struct{}{}
	return nil
}

// leave is the receiver's: the session closes after the call under way, and an opening is given up.
func (ss *served) leave() {
	ss.cancel()
	close(ss.work)
}

// run runs the session's calls until it is closed.
func (ss *served) run() {
	defer ss.server.wg.Done()
	defer ss.cancel()
	for range ss.work {
		began := time.Now()
		ss.call()
		cost := ss.server.spent(time.Since(began))
		clear(ss.body)
		h := ss.q.head
		ss.q = question{}
		ss.a.head = h
		if n := len(ss.a.out); n > maxData {
			ss.a.err = fmt.Errorf("%w: the result's %d bytes are more than the %d a worker returns at once", hsm.ErrInput, n, maxData)
			ss.a.out = nil
		}
		others := ss.server.busy.Add(-1)
		// Waiting for others' answers pays only when they are a moment away.
		company := others > 0 && time.Duration(others)*cost < yieldMost
		ss.free.Store(true) // before the answer: the next question may follow it at once
		_ = send(ss.server.link, &ss.a, company)
		clear(ss.op.Out) // other results are neither secret nor ours
		ss.a = answer{}
		if cap(ss.op.Out) > keepSize {
			ss.op.Out = nil
		}
	}
	var err error
	if ss.session != nil {
		err = ss.session.Close()
	}
	if ss.closeSeq != 0 {
		_ = send(ss.server.link, &answer{head: head{verb: verbClose, session: ss.id, seq: ss.closeSeq}, err: err}, false)
	}
}

// call runs ss.q and leaves what became of it in ss.a.
func (ss *served) call() {
	q, a := &ss.q, &ss.a
	if q.verb == verbOpen {
		if ss.session != nil {
			a.err = fmt.Errorf("%w: opened twice", errFrame)
			return
		}
		ss.session, a.err = ss.server.token.OpenSession(ss.ctx)
		if _, ok := ss.session.(hsm.Keeper); a.err == nil && !ok {
			a.out = []byte{0}
		}
		return
	}
	if ss.session == nil {
		a.err, a.lost = hsm.ErrClosed, hsm.ErrClosed
		return
	}
	switch q.verb {
	case verbDo:
		out := ss.op.Out[:0]
		ss.op = q.op
		ss.op.Out = out
		a.lost = ss.session.Do(&ss.op)
		a.err, a.out = ss.op.Err, ss.op.Out
		if a.err != nil {
			clear(a.out[:cap(a.out)])
			a.out = nil
		}
		ss.op = hsm.Op{Out: ss.op.Out} // nothing of the question outlives it
	case verbFind:
		h, err := ss.session.Find(q.class, q.data)
		ss.object(h, err)
	default:
		k, ok := ss.session.(hsm.Keeper)
		if !ok {
			a.err = fmt.Errorf("%w: its sessions keep no keys", hsm.ErrUnsupported)
			return
		}
		ss.keep(k)
	}
}

// keep runs a Keeper's call.
func (ss *served) keep(k hsm.Keeper) {
	q, a := &ss.q, &ss.a
	switch q.verb {
	case verbGenerate:
		ss.object(k.Generate(q.spec))
	case verbImport:
		ss.object(k.Import(q.spec, q.data))
	case verbUnwrap:
		ss.object(k.UnwrapKey(q.kek, q.op.Mech, q.data, q.spec))
	case verbPublic:
		a.out, a.err = k.Public(q.op.Key)
	case verbWrap:
		a.out, a.err = k.WrapKey(q.kek, q.op.Mech, q.op.Key)
	case verbDestroy:
		a.err = k.Destroy(q.op.Key)
	}
}

// object answers with a handle.
func (ss *served) object(h hsm.Handle, err error) {
	if ss.a.err = err; err == nil {
		binary.LittleEndian.PutUint64(ss.handle[:], uint64(h))
		ss.a.out = ss.handle[:]
	}
}
