//go:build linux && cgo

package faulthsm

import (
	"testing"

	"keyway/hsm"
)

// A token that says a session is gone and keeps it would be full of them before long: the driver closes it all the same.
func TestASessionWronglyCalledClosedIsClosed(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	before := r.status().Sessions
	for _, code := range []hsm.Code{hsm.SessionClosed, hsm.SessionHandleInvalid, hsm.CryptokiNotInitialized} {
		s := r.session()
		r.add(Rule{ID: "lie", On: []string{"C_SignInit"}, Times: 1, Do: []Effect{Return(code)}})
		if err := s.Do(mac(key)); codeOf(err) != code {
			t.Errorf("%s: %v", code, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		r.remove("lie")
		if n := r.status().Sessions; n != before {
			t.Errorf("after %s there are %d sessions, %d before", code, n, before)
		}
	}
	if got := r.macs(s, key, 2); len(got) != 0 {
		t.Errorf("operations %v of another session failed", got)
	}
}
