//go:build cgo

package pkcs11

import (
	"fmt"

	"keyway/hsm"
)

func unsupportedHash(h hsm.Hash) error {
	return fmt.Errorf("%w: %s with %s", hsm.ErrUnsupported, hsm.RSAPKCSOAEP, h)
}

// wrapSteps are the functions of the steps of kw_wrap_bytes, unwrapSteps those of kw_unwrap_bytes.
var (
	wrapSteps   = [...]hsm.Function{hsm.FnCreate, hsm.FnWrap, hsm.FnDestroy}
	unwrapSteps = [...]hsm.Function{hsm.FnUnwrap, hsm.FnGetAttribute, hsm.FnDestroy}
)

// wrapBytes wraps clear material by way of a session object, so that a key that may only wrap suffices.
func (s *Session) wrapBytes(op *hsm.Op) error {
	m := op.Mech.Type
	// RFC 3394 adds 8 bytes, RFC 5649 8 to 15.
	out := room(op.Out, len(op.In)+16)
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.wrapBytes(s.h, op.Key, m, op.In, out)
	if r.code == hsm.BufferTooSmall && r.step == 1 {
		out = make([]byte, 4*len(out))
		r = s.t.lib.wrapBytes(s.h, op.Key, m, op.In, out)
	}
	if !r.fits(out) {
		return s.failed(r.code, wrapSteps[r.step])
	}
	op.Out = out[:r.n]
	return nil
}

func (s *Session) unwrapBytes(op *hsm.Op) error {
	m := op.Mech.Type
	out := room(op.Out, len(op.In))
	if l := s.t.profile.LargestSecret; l > 0 && len(op.In) > l+8 {
		out, err := s.call(hsm.FnUnwrap, op.Key, operation{kind: decrypt, mechanism: m}, nil, nil, op.In, out, 0)
		if err == nil {
			op.Out = out
		}
		return err
	}
	s.t.objectsComeAndGo()
	defer s.t.objectsStay()
	r := s.t.lib.unwrapBytes(s.h, op.Key, m, op.In, out)
	if !r.fits(out) {
		clear(out)
		return s.failed(r.code, unwrapSteps[r.step])
	}
	clear(out[r.n:])
	op.Out = out[:r.n]
	return nil
}

// objectsComeAndGo and objectsStay enclose every call that makes or destroys objects.
func (t *Token) objectsComeAndGo() {
	if t.profile.FindAlone {
		t.objects.RLock()
	}
}

func (t *Token) objectsStay() {
	if t.profile.FindAlone {
		t.objects.RUnlock()
	}
}
