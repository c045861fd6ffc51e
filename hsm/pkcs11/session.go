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
	// types remembers the CKA_KEY_TYPE of keys used here, on tokens where that must be known.
	types map[hsm.Handle]uint64
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
	s.t.mu.Lock()
	delete(s.t.sessions, s)
	s.t.mu.Unlock()
	// A token may say that a session is gone and keep it. But its handle may also have been given out again, and then
	// it is not ours to close.
	if !s.stale || !s.t.uses(s.h) {
		_ = s.t.lib.ctx.CloseSession(pkcs11.SessionHandle(s.h))
	}
	clear(s.public)
}

// Close closes the session, at once or when the call that is inside the library returns.
func (s *Session) Close() error {
	s.closing.Store(true)
	s.closeIdle()
	return nil
}

// failed makes the error for a code, and gives up the session if it cannot be used again.
func (s *Session) failed(c hsm.Code, fn hsm.Function) error {
	// SoftHSM answers a lost login with an invalid handle, NSS with a wrong key size and then with whatever its memory holds: all
	// but plain words are asked after.
	switch hsm.Classify(c, fn, s.t.profile.Vendor) {
	case hsm.Stale, hsm.Object, hsm.Suspect:
		if l := s.t.loginLost(s.h); l != hsm.OK {
			c = l
		}
	}
	if c.EndsSession() {
		s.lost, s.stale = true, gone(c)
		s.closing.Store(true)
	}
	return &hsm.Error{Code: c, Function: fn, Vendor: s.t.profile.Vendor}
}

// mechanismKeys are the key types of the mechanisms that use a key.
var mechanismKeys = map[hsm.MechanismType]hsm.KeyType{
	hsm.RSAPKCS: hsm.KeyRSA, hsm.RSAPKCSPSS: hsm.KeyRSA, hsm.RSAPKCSOAEP: hsm.KeyRSA, hsm.ECDSA: hsm.KeyEC, hsm.EDDSA: hsm.KeyEd25519,
	hsm.SHA256HMAC: hsm.KeyGeneric, hsm.SHA384HMAC: hsm.KeyGeneric, hsm.SHA512HMAC: hsm.KeyGeneric,
	hsm.AESCMAC: hsm.KeyAES, hsm.AESGCM: hsm.KeyAES, hsm.AESKeyWrap: hsm.KeyAES, hsm.AESKeyWrapKWP: hsm.KeyAES,
}

// mostTypes bounds Session.types.
const mostTypes = 1024

// fits refuses a key of another type than the mechanism's on tokens that take one. Handles are not given twice, so what
// was once seen at one stays true.
func (s *Session) fits(m hsm.MechanismType, key hsm.Handle, fn hsm.Function) error {
	if !s.t.profile.TrustsKeyTypes {
		return nil
	}
	kt, known := s.types[key]
	if !known {
		var err error
		if kt, err = s.number(key, attrKeyType); err != nil {
			return err
		}
		if len(s.types) >= mostTypes {
			clear(s.types)
		}
		s.types[key] = kt
	}
	if kt != keyTypes[mechanismKeys[m]] {
		return s.failed(hsm.KeyTypeInconsistent, fn)
	}
	return nil
}

// usable says which mechanism the token lacks.
func (s *Session) usable(m hsm.MechanismType) error {
	if _, has := s.t.info.Mechanisms[m]; !has {
		return fmt.Errorf("%w: %s", hsm.ErrUnsupported, m)
	}
	return nil
}
