// Package soft is the embedded token: the token contract on Go's standard
// cryptography. It serves where no PKCS#11 library is installed, and in tests. It keeps
// keys from whoever does not have its PIN and its file; it is no HSM.
package soft

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"keyway/hsm"
)

// Token is a software token. It is safe for concurrent use.
type Token struct {
	info hsm.Info
	file *file // nil: memory only

	next atomic.Uint64 // handles; never given twice

	mu      sync.RWMutex // guards what follows
	objects map[hsm.Handle]*object
	closed  bool
}

var _ hsm.Token = (*Token)(nil)

// New returns a token in memory. Its token objects live as long as it does.
func New(label string) *Token {
	t := &Token{objects: map[hsm.Handle]*object{}, info: hsm.Info{
		Label: label, Serial: "soft-" + label, Manufacturer: "Keyway", Model: "embedded", Firmware: "1", Vendor: hsm.VendorSoft,
		Mechanisms: map[hsm.MechanismType]hsm.MechanismInfo{}, OAEPHashes: []hsm.Hash{hsm.SHA512, hsm.SHA384, hsm.SHA256, hsm.SHA1},
	}}
	for _, m := range hsm.KnownMechanisms() {
		t.info.Mechanisms[m] = hsm.MechanismInfo{}
	}
	return t
}

// Info tells what the token is.
func (t *Token) Info() hsm.Info { return t.info }

// OpenSession opens a session. It does not block.
func (t *Token) OpenSession(ctx context.Context) (hsm.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return nil, hsm.ErrClosed
	}
	return &session{t: t}, nil
}

// Close forgets every object. It is safe to call twice.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for h, o := range t.objects {
		delete(t.objects, h)
		o.wipe()
	}
	return nil
}

// session implements hsm.Keeper.
type session struct {
	t      *Token
	closed bool
}

var _ hsm.Keeper = (*session)(nil)

// fault is an error with a code of the standard.
func fault(c hsm.Code, f hsm.Function) error {
	return &hsm.Error{Code: c, Function: f, Vendor: hsm.VendorSoft}
}

// object returns a live object.
func (s *session) object(h hsm.Handle, f hsm.Function) (*object, error) {
	s.t.mu.RLock()
	defer s.t.mu.RUnlock()
	if s.closed || s.t.closed {
		return nil, hsm.ErrClosed
	}
	o := s.t.objects[h]
	if o == nil {
		return nil, fault(hsm.KeyHandleInvalid, f)
	}
	return o, nil
}

// add makes o an object of the token, durable when it is a token object.
func (s *session) add(o *object) (hsm.Handle, error) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.closed || t.closed {
		return 0, hsm.ErrClosed
	}
	h := hsm.Handle(t.next.Add(1))
	o.owner = s
	t.objects[h] = o
	if o.spec.Token {
		if err := t.save(); err != nil {
			delete(t.objects, h)
			return 0, err
		}
	}
	return h, nil
}

// Find returns the one object of a class with an ID.
func (s *session) Find(c hsm.Class, id []byte) (hsm.Handle, error) {
	if len(id) == 0 {
		return 0, input("an object without CKA_ID cannot be found")
	}
	s.t.mu.RLock()
	defer s.t.mu.RUnlock()
	if s.closed || s.t.closed {
		return 0, hsm.ErrClosed
	}
	var found hsm.Handle
	for h, o := range s.t.objects {
		if o.spec.ObjectClass() != c || !slices.Equal(o.spec.ID, id) {
			continue
		}
		if found != 0 {
			return 0, hsm.ErrAmbiguous
		}
		found = h
	}
	if found == 0 {
		return 0, hsm.ErrNotFound
	}
	return found, nil
}

// Destroy destroys an object, and the public half of a pair made on the token.
func (s *session) Destroy(h hsm.Handle) error {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.closed || t.closed {
		return hsm.ErrClosed
	}
	o := t.objects[h]
	if o == nil {
		return fault(hsm.ObjectHandleInvalid, hsm.FnDestroy)
	}
	delete(t.objects, h)
	for ph, p := range t.objects {
		if o.spec.Token && o.spec.ObjectClass() == hsm.ClassPrivate && p.spec.Token && p.spec.ObjectClass() == hsm.ClassPublic && slices.Equal(p.spec.ID, o.spec.ID) {
			delete(t.objects, ph)
		}
	}
	defer o.wipe()
	if o.spec.Token {
		return t.save()
	}
	return nil
}

// Close ends the session and destroys the session objects it made.
func (s *session) Close() error {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for h, o := range t.objects {
		if o.owner == s && !o.spec.Token {
			delete(t.objects, h)
			o.wipe()
		}
	}
	return nil
}

// Do runs op.
func (s *session) Do(op *hsm.Op) error {
	op.Out = op.Out[:0]
	if op.Err = s.do(op); op.Err == hsm.ErrClosed {
		return op.Err
	}
	return nil
}

func (s *session) do(op *hsm.Op) error {
	if err := s.open(); err != nil {
		return err
	}
	if op.Kind != hsm.OpRandom && !s.t.info.Has(op.Mech.Type) {
		return fmt.Errorf("%w: %s", hsm.ErrUnsupported, op.Mech.Type)
	}
	if err := op.Check(); err != nil {
		return err
	}
	if op.Kind == hsm.OpRandom {
		op.Out = grow(op.Out, op.Len)
		_, _ = rand.Read(op.Out) // never fails (crypto/rand documents it)
		return nil
	}
	o, err := s.object(op.Key, functionOf(op.Kind))
	if err != nil {
		return err
	}
	return o.do(op)
}

// open returns ErrClosed when session or token have been closed.
func (s *session) open() error {
	s.t.mu.RLock()
	defer s.t.mu.RUnlock()
	if s.closed || s.t.closed {
		return hsm.ErrClosed
	}
	return nil
}

func functionOf(k hsm.OpKind) hsm.Function {
	switch k {
	case hsm.OpSign:
		return hsm.FnSign
	case hsm.OpEncrypt:
		return hsm.FnEncrypt
	case hsm.OpDecrypt:
		return hsm.FnDecrypt
	case hsm.OpWrap:
		return hsm.FnWrap
	case hsm.OpUnwrap:
		return hsm.FnUnwrap
	}
	return hsm.FnOther
}

// input says that a call makes no sense on this token.
func input(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{hsm.ErrInput}, a...)...)
}
