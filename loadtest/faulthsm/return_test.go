//go:build linux && cgo

package faulthsm

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"keyway/hsm"
)

func TestReturnAnyCodeOnTheNthCall(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Rule{ID: "a", On: []string{"C_Sign"}, Nth: 2, Do: []Effect{Return(hsm.FunctionFailed)}},
		Rule{ID: "b", On: []string{"C_SignInit"}, Nth: 4, Do: []Effect{Return(0x8000001A)}})
	var codes []hsm.Code
	for range 5 {
		op := mac(key)
		if err := s.Do(op); err != nil {
			t.Fatal(err)
		}
		codes = append(codes, codeOf(op.Err))
	}
	if want := []hsm.Code{hsm.OK, hsm.FunctionFailed, hsm.OK, 0x8000001A, hsm.OK}; !slices.Equal(codes, want) {
		t.Errorf("codes %v, want %v", codes, want)
	}
	if i := r.item("a"); i.Seen != 4 || i.Fired != 1 {
		t.Errorf("seen %d, fired %d; want 4 and 1: the fourth C_SignInit let no C_Sign follow", i.Seen, i.Fired)
	}
}

func TestReturnEndsTheOperationUnlessItSaysSo(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.add(Rule{ID: "ends", On: []string{"C_Sign"}, Times: 1, Do: []Effect{Return(hsm.FunctionFailed)}})
	if got := r.macs(s, key, 3); !slices.Equal(got, []int{1}) {
		t.Errorf("failed: %v, want the first only", got)
	}
	r.remove("ends")
	r.add(Rule{ID: "stays", On: []string{"C_Sign"}, Times: 1, Do: []Effect{ReturnPending(hsm.FunctionFailed)}})
	op := mac(key)
	if err := s.Do(op); err != nil || codeOf(op.Err) != hsm.FunctionFailed {
		t.Fatalf("%v, %v", err, op.Err)
	}
	if err := s.Do(mac(key)); codeOf(err) != hsm.OperationActive {
		t.Errorf("after a failure that left the operation active: %v", err)
	}
}

func TestBufferTooSmallAsksForMoreAndStaysPending(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	want := mac(key)
	if err := s.Do(want); err != nil || want.Err != nil {
		t.Fatal(err, want.Err)
	}
	r.add(Rule{ID: "small", On: []string{"C_Sign"}, Times: 1, Do: []Effect{Return(hsm.BufferTooSmall)}})
	op := mac(key)
	if err := s.Do(op); err != nil || op.Err != nil || !bytes.Equal(op.Out, want.Out) {
		t.Errorf("%v, %v: the driver should have called again with the operation still pending", err, op.Err)
	}
	if i := r.item("small"); i.Seen != 2 || i.Fired != 1 {
		t.Errorf("seen %d, fired %d", i.Seen, i.Fired)
	}
}

func TestReturnAfterTheCallLosesTheAnswerOnly(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	r.add(Rule{ID: "lost", On: []string{"C_GenerateKey"}, Times: 2, Do: []Effect{Call(), Return(hsm.FunctionFailed)}})
	spec := macSpec
	spec.ID, spec.Token = []byte("made, but nobody was told"), true
	if _, err := s.Generate(spec); codeOf(err) != hsm.FunctionFailed {
		t.Fatal(err)
	}
	h, err := s.Find(hsm.ClassSecret, spec.ID)
	if err != nil {
		t.Fatalf("the key should be there: %v", err)
	}
	if err := s.Destroy(h); err != nil {
		t.Error(err)
	}
	// Before the call nothing is made.
	r.add(fails("never", "C_GenerateKey"))
	r.remove("lost")
	if _, err := s.Generate(spec); codeOf(err) != hsm.FunctionFailed {
		t.Fatal(err)
	}
	if _, err := s.Find(hsm.ClassSecret, spec.ID); err != hsm.ErrNotFound {
		t.Errorf("a call that never reached the token made a key: %v", err)
	}
}

func TestSelectors(t *testing.T) {
	r := softHSM(t)
	s, other := r.session(), r.session()
	key, key2 := r.generate(s, macSpec), r.generate(s, macSpec)
	try := func(name string, rule Rule, want ...int) {
		t.Helper()
		rule.ID, rule.On, rule.Do = "try", []string{"C_Sign"}, []Effect{Return(hsm.FunctionFailed)}
		r.add(rule)
		if got := r.macs(s, key, 10); !slices.Equal(got, want) {
			t.Errorf("%s: failed %v, want %v", name, got, want)
		}
		r.remove("try")
	}
	all := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	mech, wrong := hsm.SHA256HMAC, hsm.ECDSA
	right, left := uint64(key), uint64(key2)
	try("every call", Rule{}, all...)
	try("nth", Rule{Nth: 3}, 3)
	try("every third", Rule{Every: 3}, 3, 6, 9)
	try("skip", Rule{Skip: 8}, 9, 10)
	try("three, then stop", Rule{Times: 3}, 1, 2, 3)
	try("skip, every and times", Rule{Skip: 2, Every: 2, Times: 3}, 4, 6, 8)
	try("certain", Rule{Probability: 1}, all...)
	try("the key of the operation", Rule{Key: &right}, all...)
	try("another key", Rule{Key: &left})
	try("the mechanism of the operation", Rule{Mechanism: &mech}, all...)
	try("another mechanism", Rule{Mechanism: &wrong})
	try("from later on", Rule{From: 3600e9})
	try("no longer", Rule{Lasts: 1})
	elsewhere := uint64(1 << 40)
	try("another slot", Rule{Slot: &elsewhere})
	try("as long as it lasts", Rule{Lasts: 3600e9}, all...)
	r.add(Rule{ID: "watch", On: []string{"C_Sign"}, Times: 1, Do: []Effect{Nothing()}})
	r.macs(s, key, 1)
	line, err := r.conn.Log(r.ctx(), 1)
	if err != nil {
		t.Fatal(err)
	}
	slot := handleIn(t, line[0], "slot=")
	try("the slot", Rule{Slot: &slot}, all...)
	r.remove("watch")

	begun := time.Now()
	r.add(Rule{ID: "later", On: []string{"C_Sign"}, From: 40 * time.Millisecond, Do: []Effect{Return(hsm.FunctionFailed)}})
	for len(r.macs(s, key, 1)) == 0 {
		time.Sleep(time.Millisecond)
	}
	if d := time.Since(begun); d < 40*time.Millisecond {
		t.Errorf("a rule from 40 ms on acted after %s", d)
	}
	r.remove("later")

	// Which session is which the log tells; a rule may be bound to one.
	r.add(Rule{ID: "watch", On: []string{"C_Sign"}, Do: []Effect{Nothing()}})
	r.macs(s, key, 1)
	r.macs(other, key, 1)
	var handles []uint64
	log, err := r.conn.Log(r.ctx(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range log {
		handles = append(handles, handleIn(t, l, "session="))
	}
	if len(handles) != 2 || handles[0] == handles[1] {
		t.Fatalf("log %q", log)
	}
	if k := handleIn(t, log[0], "key="); k != right {
		t.Errorf("the log says key %d, want %d", k, right)
	}
	r.add(Rule{ID: "one", On: []string{"C_Sign"}, Session: &handles[1], Do: []Effect{Return(hsm.FunctionFailed)}})
	if a, b := r.macs(s, key, 2), r.macs(other, key, 2); len(a) != 0 || !slices.Equal(b, []int{1, 2}) {
		t.Errorf("failed in the session it is not for: %v, in its own: %v", a, b)
	}
}

func TestProbabilityFollowsFromTheSeed(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	draw := func(seed uint64) []int {
		t.Helper()
		r.add(Seed(seed), Rule{ID: "maybe", On: []string{"C_Sign"}, Probability: 0.3, Do: []Effect{Return(hsm.FunctionFailed)}})
		got := r.macs(s, key, 400)
		r.remove("maybe")
		return got
	}
	one, again, two := draw(1), draw(1), draw(2)
	if !slices.Equal(one, again) {
		t.Error("the same seed chose other calls")
	}
	if slices.Equal(one, two) {
		t.Error("another seed chose the same calls")
	}
	// 120 expected, standard deviation 9.2.
	for _, n := range []int{len(one), len(two)} {
		if n < 75 || n > 165 {
			t.Errorf("%d of 400 failed with probability 0.3", n)
		}
	}
}

func TestRulesActTogetherInTheirOrder(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	r.macs(s, key, 1) // so that the driver knows the key
	r.add(
		Rule{ID: "first", On: []string{"any"}, Do: []Effect{Nothing()}},
		Rule{ID: "second", On: []string{"crypto"}, Do: []Effect{Return(hsm.FunctionFailed)}},
		Rule{ID: "third", On: []string{"session"}, Do: []Effect{Return(hsm.GeneralError)}},
	)
	op := mac(key)
	if err := s.Do(op); err != nil || codeOf(op.Err) != hsm.GeneralError {
		t.Errorf("C_SignInit is in session, not in crypto: %v, %v", err, op.Err)
	}
	r.remove("third")
	if err := s.Do(op); err != nil || codeOf(op.Err) != hsm.FunctionFailed {
		t.Errorf("C_Sign: %v, %v", err, op.Err)
	}
	// C_SignInit, C_SignInit and C_Sign, and after each of the two codes the driver asks whether it is still logged in.
	if first, second := r.item("first"), r.item("second"); first.Fired != 5 || second.Fired != 1 {
		t.Errorf("fired %d and %d, want 5 and 1", first.Fired, second.Fired)
	}
}
