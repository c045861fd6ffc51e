package worker

import (
	"encoding/binary"

	"keyway/hsm"
)

// session is the parent's side of a session. Like every session it has one call
// under way at most, so one answer channel serves them all and a call allocates nothing.
type session struct {
	token  *Token
	id     uint32
	seq    uint32
	closed bool
	answer chan answer
	// out is written by the token's receiver before it gives an answer and read by the caller after it got one.
	out []byte
}

// answer is what came back of one call. Its out is valid until the session's next call.
type answer struct {
	err  error
	lost error
	out  []byte
}

var _ hsm.Keeper = (*session)(nil)

// bareSession hides the Keeper's methods of a token that keeps no keys.
type bareSession struct{ hsm.Session }

// give never blocks: there is one answer for one question, and room for it.
func (s *session) give(a answer) {
	select {
	case s.answer <- a:
	default:
	}
}

// call sends a question and waits for its answer. It ends at the latest when the worker does.
func (s *session) call(verb byte, put func([]byte) []byte) answer {
	if s.closed {
		return answer{err: hsm.ErrClosed, lost: hsm.ErrClosed}
	}
	s.seq++
	if err := s.token.link.send(head{verb: verb, session: s.id, seq: s.seq}, put); err != nil {
		if hsm.FaultOf(err) == hsm.Caller {
			return answer{err: err}
		}
		return answer{err: hsm.ErrLinkLost, lost: hsm.ErrLinkLost}
	}
	select {
	case a := <-s.answer:
		return a
	case <-s.token.done:
		// The answer may have come just before the end.
		select {
		case a := <-s.answer:
			return a
		default:
			return answer{err: hsm.ErrLinkLost, lost: hsm.ErrLinkLost}
		}
	}
}

// Do runs op in the worker.
func (s *session) Do(op *hsm.Op) error {
	a := s.call(verbDo, func(b []byte) []byte { return putOp(b, op) })
	op.Out = append(op.Out[:0], a.out...)
	clear(a.out)
	op.Err = a.err
	return a.lost
}

// Find looks an object up in the worker.
func (s *session) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	return s.handle(verbFind, func(b []byte) []byte { return putBytes(append(b, byte(c)), id) })
}

func (s *session) handle(verb byte, put func([]byte) []byte) (hsm.Handle, error) {
	a := s.call(verb, put)
	if a.err != nil {
		return 0, a.err
	}
	return handleOf(a.out)
}

func (s *session) bytes(verb byte, put func([]byte) []byte) ([]byte, error) {
	a := s.call(verb, put)
	if a.err != nil {
		return nil, a.err
	}
	return append([]byte(nil), a.out...), nil
}

// Generate makes a key in the worker.
func (s *session) Generate(spec hsm.Spec) (hsm.Handle, error) {
	return s.handle(verbGenerate, func(b []byte) []byte { return putSpec(b, spec) })
}

// Public reads a public half in the worker.
func (s *session) Public(h hsm.Handle) ([]byte, error) {
	return s.bytes(verbPublic, putHandle(h))
}

// Import makes an object from clear material in the worker.
func (s *session) Import(spec hsm.Spec, material []byte) (hsm.Handle, error) {
	return s.handle(verbImport, func(b []byte) []byte { return putBytes(putSpec(b, spec), material) })
}

// WrapKey wraps a key in the worker.
func (s *session) WrapKey(kek hsm.Handle, m hsm.Mechanism, key hsm.Handle) ([]byte, error) {
	return s.bytes(verbWrap, func(b []byte) []byte {
		b = putMechanism(binary.LittleEndian.AppendUint64(b, uint64(kek)), m)
		return binary.LittleEndian.AppendUint64(b, uint64(key))
	})
}

// UnwrapKey unwraps a key in the worker.
func (s *session) UnwrapKey(kek hsm.Handle, m hsm.Mechanism, blob []byte, spec hsm.Spec) (hsm.Handle, error) {
	return s.handle(verbUnwrap, func(b []byte) []byte {
		b = putMechanism(binary.LittleEndian.AppendUint64(b, uint64(kek)), m)
		return putBytes(putSpec(b, spec), blob)
	})
}

// Destroy destroys an object in the worker.
func (s *session) Destroy(h hsm.Handle) error { return s.call(verbDestroy, putHandle(h)).err }

// Close closes the session in the worker. It is safe to call twice.
func (s *session) Close() error {
	if s.closed {
		return nil
	}
	a := s.call(verbClose, nil)
	s.closed = true
	s.token.forget(s.id)
	if a.err == hsm.ErrLinkLost {
		return nil // it is closed, with everything else
	}
	return a.err
}
