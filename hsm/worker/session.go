package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"keyway/hsm"
)

// The states of a session's one call.
const (
	idle      int32 = iota
	preparing       // the caller writes its question
	waiting         // a question is under way; whoever moves it to idle fills done
	abandoned       // nobody waits for the answer any more
)

// session is the parent's side of a session. A session has one call under way at most, so
// it owns one question, one answer and one channel, and a call allocates nothing.
type session struct {
	token  *Token
	id     uint32
	closed atomic.Bool
	done   chan struct{} // holds one token: the call is over

	state atomic.Int32
	// Written by the caller before state is waiting, then by the receiver until done is filled.
	q   question
	seq uint32
	a   answer
	out []byte // where a result goes, a caller's own
}

var _ hsm.Keeper = (*session)(nil)

// bare hides the Keeper of a session whose token keeps no keys.
type bare struct{ hsm.Session }

var errShared = errors.New("a session is used by two goroutines at once")

// begin makes the session the caller's until ask: it may write s.q.
func (s *session) begin() error {
	if s.closed.Load() {
		return hsm.ErrClosed
	}
	return s.occupy()
}

func (s *session) occupy() error {
	if s.token.dead.Load() {
		return s.token.gone()
	}
	if !s.state.CompareAndSwap(idle, preparing) {
		return errShared
	}
	return nil
}

// ask sends s.q, which follows begin, and waits for the answer. It ends at the latest when the worker does.
// The result is appended to out, from its start.
func (s *session) ask(ctx context.Context, out []byte) answer {
	out = out[:0]
	if err := s.q.oversized(); err != nil {
		s.state.Store(idle)
		return answer{err: err, out: out}
	}
	seq := s.seq + 1
	if seq == 0 {
		seq = 1 // 0 asks for no answer
	}
	s.seq, s.q.session, s.q.seq, s.out = seq, s.id, seq, out
	s.state.Store(waiting)
	company := s.token.busy.Add(1) > 1
	defer s.token.busy.Add(-1)
	// A failed send needs no care: the receiver sees the end of the connection and fails every call.
	_ = send(s.token.link, &s.q, company)
	if s.token.dead.Load() && s.state.CompareAndSwap(waiting, idle) {
		// The receiver may have been through before this call began.
		err := s.token.gone()
		return answer{err: err, lost: err, out: out}
	}
	if ctx.Done() == nil { // nearly always; a plain receive is cheaper than a select
		<-s.done
	} else {
		select {
		case <-s.done:
		case <-ctx.Done():
			if s.state.CompareAndSwap(waiting, abandoned) {
				return answer{err: ctx.Err()}
			}
			<-s.done // the answer came at the same moment
		}
	}
	a := s.a
	s.a, s.out = answer{}, nil
	s.q.op, s.q.data = hsm.Op{}, nil // the caller's
	return a
}

// settle is the receiver's: it ends the call under way with a, whose out it copies. It does nothing
// when no call is, and reports whether the frame made sense.
func (s *session) settle(a answer) bool {
	switch s.state.Load() {
	case abandoned:
		return true
	case idle, preparing:
		return false
	}
	if a.seq != s.q.seq || a.verb != s.q.verb|answerBit {
		return false
	}
	s.finish(a)
	return true
}

// finish is the receiver's.
func (s *session) finish(a answer) {
	if a.lost != nil && a.err == nil {
		a.err = a.lost // nobody is to take the call for a success
	}
	if a.err != nil {
		a.out = nil // nor a part of it
	}
	a.out = append(s.out, a.out...)
	s.a = a
	if s.state.CompareAndSwap(waiting, idle) {
		s.done <- struct{}{}
	}
}

// Do runs op in the worker.
func (s *session) Do(op *hsm.Op) error {
	if err := s.begin(); err != nil {
		op.Out, op.Err = op.Out[:0], err
		return err
	}
	s.q.verb, s.q.op = verbDo, *op
	a := s.ask(context.Background(), op.Out)
	op.Out, op.Err = a.out, a.err
	return a.lost
}

// Find looks an object up in the worker.
func (s *session) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	return s.handle(question{head: head{verb: verbFind}, class: c, data: id})
}

// Generate makes a key in the worker.
func (s *session) Generate(spec hsm.Spec) (hsm.Handle, error) {
	return s.handle(question{head: head{verb: verbGenerate}, spec: spec})
}

// Public reads a public half in the worker.
func (s *session) Public(h hsm.Handle) ([]byte, error) {
	return s.bytes(question{head: head{verb: verbPublic}, op: hsm.Op{Key: h}})
}

// Import makes an object from clear material in the worker.
func (s *session) Import(spec hsm.Spec, material []byte) (hsm.Handle, error) {
	return s.handle(question{head: head{verb: verbImport}, spec: spec, data: material})
}

// WrapKey wraps a key in the worker.
func (s *session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	return s.bytes(question{head: head{verb: verbWrap}, kek: kek, op: hsm.Op{Mech: m, Key: key}})
}

// UnwrapKey unwraps a key in the worker.
func (s *session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	return s.handle(question{head: head{verb: verbUnwrap}, kek: kek, op: hsm.Op{Mech: m}, data: blob, spec: spec})
}

// Destroy destroys an object in the worker.
func (s *session) Destroy(h hsm.Handle) error {
	_, err := s.bytes(question{head: head{verb: verbDestroy}, op: hsm.Op{Key: h}})
	return err
}

// Close closes the session in the worker and waits for that, as a library's own close would. It is safe
// to call twice; a session of a worker that is gone is closed already.
func (s *session) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	defer s.token.forget(s.id)
	if err := s.occupy(); err == errShared {
		// A call is still under way: the worker closes the session after it, and nobody waits for that.
		return send(s.token.link, &question{head: head{verb: verbClose, session: s.id}}, false)
	} else if err != nil {
		return nil
	}
	s.q = question{head: head{verb: verbClose}}
	if a := s.ask(context.Background(), nil); a.lost == nil {
		return a.err
	}
	return nil
}

// bytes asks q for a byte string.
func (s *session) bytes(q question) ([]byte, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	s.q = q
	a := s.ask(context.Background(), nil)
	if a.err != nil {
		return nil, a.err
	}
	return a.out, nil
}

// handle asks q for an object.
func (s *session) handle(q question) (hsm.Handle, error) {
	b, err := s.bytes(q)
	if err != nil {
		return 0, err
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: a handle of %d bytes", errFrame, len(b))
	}
	return hsm.Handle(binary.LittleEndian.Uint64(b)), nil
}
