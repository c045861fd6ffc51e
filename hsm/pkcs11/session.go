//go:build cgo

package pkcs11

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"keyway/hsm"
)

// Session is one session on a token. It implements [hsm.Keeper].
type Session struct {
	t *Token
	h uint

	// mu is held while a call is inside the library, so that Close cannot pull the session away under it.
	mu      sync.Mutex
	closing atomic.Bool // set once Close was called or the session was lost
	lost    bool        // a code said that the session cannot be used again
	stale   bool        // the handle is not ours any more
	closed  bool

	// public holds the SubjectPublicKeyInfo of each pair made here.
	public map[hsm.Handle][]byte
	// scratch is where a digest is put behind its DigestInfo.
	scratch [19 + 64]byte
}

var _ hsm.Keeper = (*Session)(nil)

// enter begins a call, unless the session is closed or lost.
func (s *Session) enter() error {
	if s.closing.Load() {
		return hsm.ErrClosed
	}
	s.mu.Lock()
	if s.closing.Load() {
		s.leave()
		return hsm.ErrClosed
	}
	return nil
}

// leave ends a call, and closes the session if somebody wanted that meanwhile.
func (s *Session) leave() {
	s.mu.Unlock()
	// Looked at after unlocking: either Close finds the lock free or this sees what Close set.
	if s.closing.Load() {
		s.closeIdle()
	}
}

func (s *Session) closeIdle() {
	if !s.mu.TryLock() {
		return // whoever has it closes the session when leaving
	}
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if !s.stale {
		_ = s.t.lib.ctx.CloseSession(pkcs11.SessionHandle(s.h))
	}
	clear(s.public)
	s.t.mu.Lock()
	delete(s.t.sessions, s)
	s.t.mu.Unlock()
}

// Close closes the session, at once or when the call that is inside the library returns.
func (s *Session) Close() error {
	s.closing.Store(true)
	s.closeIdle()
	return nil
}

// failed makes the error for a code, and gives up the session if it cannot be used again.
func (s *Session) failed(c hsm.Code, fn hsm.Function) error {
	switch c {
	case hsm.ObjectHandleInvalid, hsm.KeyHandleInvalid, hsm.WrappingHandleInvalid, hsm.UnwrappingHandleInvalid:
		if l := s.t.loginLost(s.h); l != hsm.OK {
			c = l
		}
	}
	if lost(c) {
		s.lost, s.stale = true, gone(c)
		s.closing.Store(true)
	}
	return &hsm.Error{Code: c, Function: fn, Vendor: s.t.profile.Vendor}
}

// usable says which mechanism the token lacks.
func (s *Session) usable(m hsm.MechanismType) error {
	if _, has := s.t.info.Mechanisms[m]; !has {
		return fmt.Errorf("%w: %s", hsm.ErrUnsupported, m)
	}
	return nil
}
