//go:build linux && cgo

package faulthsm

import (
	"errors"
	"testing"

	"keyway/hsm"
)

// TestNSS: the module knows nothing of what stands behind it, so on another library the verbs act alike.
func TestNSS(t *testing.T) {
	t.Run("return", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		key := r.generate(s, macSpec)
		r.add(Rule{ID: "second", On: []string{"C_Sign"}, Nth: 2, Do: []Effect{Return(hsm.FunctionFailed)}})
		if got := r.macs(s, key, 4); len(got) != 1 || got[0] != 2 {
			t.Errorf("failed %v", got)
		}
	})
	t.Run("hang", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		key := r.generate(s, macSpec)
		r.add(Rule{ID: "stuck", On: []string{"C_SignInit"}, Times: 1, Do: []Effect{Hang()}})
		op := mac(key)
		done := r.hanging(s, op, r.conn, "stuck")
		if err := r.conn.Release(r.ctx(), "stuck"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(<-done, op.Err); err != nil {
			t.Error(err)
		}
	})
	t.Run("flip", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		key := r.generate(s, aesSpec)
		op := &hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: key, In: []byte("plaintext")}
		r.add(Rule{ID: "wrong", On: []string{"C_Encrypt"}, Do: []Effect{Flip()}})
		if err := errors.Join(s.Do(op), op.Err); err != nil {
			t.Fatal(err)
		}
		dec := &hsm.Op{Kind: hsm.OpDecrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM}, Key: key, In: op.Out}
		if err := s.Do(dec); err != nil || hsm.FaultOf(dec.Err) != hsm.Caller {
			t.Errorf("a ciphertext with a flipped bit: %v, %v", err, dec.Err)
		}
	})
	t.Run("logout", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		spec := macSpec
		spec.ID, spec.Token = []byte("logout"), true
		r.generate(s, spec)
		if err := r.conn.Now(r.ctx(), Logout()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.UserNotLoggedIn {
			t.Errorf("a session after the login was dropped: %v", err)
		}
		// The key is not used: without login NSS 3.87 computes with memory it has not set, and may crash in earnest.
		if _, err := s.Find(hsm.ClassSecret, spec.ID); err != hsm.ErrNotFound {
			t.Errorf("a private object without login: %v", err)
		}
	})
	t.Run("close sessions", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		key := r.generate(s, macSpec)
		if err := r.conn.Now(r.ctx(), CloseSessions()); err != nil {
			t.Fatal(err)
		}
		if err := s.Do(mac(key)); codeOf(err) != hsm.SessionHandleInvalid {
			t.Errorf("%v", err)
		}
	})
	t.Run("forget objects", func(t *testing.T) { forgetObjects(t, nss(t)) })
	t.Run("limits", func(t *testing.T) {
		r := nss(t)
		s := r.session()
		r.add(Objects{Max: 1}, Sessions{Max: 2})
		r.generate(s, macSpec)
		if _, err := s.Generate(macSpec); codeOf(err) != hsm.DeviceMemory {
			t.Errorf("the second object: %v", err)
		}
		if _, err := r.tok.OpenSession(t.Context()); codeOf(err) != hsm.SessionCount {
			t.Errorf("the third session: %v", err)
		}
	})
}
