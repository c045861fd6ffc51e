//go:build linux

package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"keyway/hsm"
)

func TestEcho(t *testing.T) {
	var log lines
	c := config(t, "echo", echoParams{Label: "pin"})
	c.Log = log.logger()
	w := spawn(t, c)
	want := hsm.Info{Label: pinProof([]byte("1234")), Vendor: "echo", OAEPHashes: []hsm.Hash{hsm.SHA256},
		Mechanisms: map[hsm.MechanismType]hsm.MechanismInfo{hsm.SHA256HMAC: {Min: 1, Max: 64}}}
	if got := w.Info(); !reflect.DeepEqual(got, want) {
		t.Errorf("Info: got %+v, want %+v", got, want)
	}
	if err := w.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := w.Memory(); err != nil || n < 1<<20 {
		t.Errorf("Memory: %d, %v", n, err)
	}
	s := openSession(t, w)
	for _, n := range []int{0, 1, 31, 4096, readSize - 1, readSize, 3 * readSize, keepSize + 1, 5, maxData} {
		in := bytes.Repeat([]byte{byte(n), 1, 2}, n/3+1)[:n]
		out := make([]byte, 0, 64)
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{Type: hsm.SHA256HMAC}, Key: 7, In: in, Out: out}
		if err := s.Do(&op); err != nil || op.Err != nil || !bytes.Equal(op.Out, in) {
			t.Fatalf("%d bytes: got %d, %v, %v", n, len(op.Out), err, op.Err)
		}
		if 0 < n && n <= cap(out) && &op.Out[0] != &out[:1][0] {
			t.Errorf("%d bytes: Out was not reused", n)
		}
	}
	op := hsm.Op{Kind: hsm.OpSign, In: make([]byte, maxData+1)}
	if err := s.Do(&op); err != nil || !errors.Is(op.Err, hsm.ErrInput) {
		t.Errorf("too large an input: %v, %v", err, op.Err)
	}
	op = hsm.Op{Kind: hsm.OpRandom, Len: maxData + 1}
	if err := s.Do(&op); err != nil || !errors.Is(op.Err, hsm.ErrInput) {
		t.Errorf("too much randomness: %v, %v", err, op.Err)
	}
	op = hsm.Op{Kind: hsm.OpRandom, Len: 1000}
	if err := s.Do(&op); err != nil || op.Err != nil || len(op.Out) != 1000 {
		t.Errorf("random: %d bytes, %v, %v", len(op.Out), err, op.Err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Do(&op); !errors.Is(err, hsm.ErrClosed) || op.Err != err {
		t.Errorf("Do after Close: %v, %v", err, op.Err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := w.OpenSession(t.Context()); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("OpenSession after Close: %v", err)
	}
	if !strings.Contains(log.String(), "echo token opening") {
		t.Errorf("what the worker said is not in the log: %s", log.String())
	}
	if strings.Contains(log.String(), "killed") || strings.Contains(log.String(), "worker ended") {
		t.Errorf("a worker that was closed did not end by itself: %s", log.String())
	}
}

func TestKeeper(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{}))
	s := openSession(t, w).(hsm.Keeper)
	spec := hsm.Spec{Class: hsm.ClassPublic, Type: hsm.KeyEC, Bits: 384, ID: []byte{1, 2}, Label: "läbel", Token: true, Extractable: true, May: hsm.MaySign | hsm.MayUnwrap}
	key, err := s.Import(spec, []byte("material"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Public(key)
	if want, _ := json.Marshal(spec); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the template that arrived: %s, %v", got, err)
	}
	if h, err := s.Find(hsm.ClassPublic, spec.ID); err != nil || h != key {
		t.Errorf("Find: %d, %v", h, err)
	}
	if _, err := s.Find(hsm.ClassSecret, spec.ID); err != hsm.ErrNotFound {
		t.Errorf("Find of another class: %v", err)
	}
	blob, err := s.WrapKey(99, hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, key)
	if err != nil || string(blob) != "99 CKM_AES_KEY_WRAP_KWP material" {
		t.Errorf("WrapKey: %s, %v", blob, err)
	}
	other, err := s.UnwrapKey(99, hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, blob, hsm.Spec{Type: hsm.KeyAES, Bits: 256})
	if err != nil || other == key {
		t.Errorf("UnwrapKey: %d, %v", other, err)
	}
	if _, err := s.UnwrapKey(98, hsm.Mechanism{Type: hsm.AESKeyWrapKWP}, blob, hsm.Spec{}); hsm.FaultOf(err) != hsm.Caller {
		t.Errorf("UnwrapKey under another key: %v", err)
	}
	if err := s.Destroy(key); err != nil {
		t.Error(err)
	}
	if err := s.Destroy(key); hsm.FaultOf(err) != hsm.FaultOf(&hsm.Error{Code: hsm.ObjectHandleInvalid, Function: hsm.FnGetAttribute}) {
		t.Errorf("Destroy again: %v", err)
	}
	if h, err := s.Generate(hsm.Spec{Type: hsm.KeyAES, Bits: 128}); err != nil || h == 0 {
		t.Errorf("Generate: %d, %v", h, err)
	}

	b := openSession(t, spawn(t, config(t, "echo", echoParams{Bare: true})))
	if _, ok := b.(hsm.Keeper); ok {
		t.Error("the session of a token that keeps no keys is a Keeper")
	}
}

// TestErrors sends every error over the border and compares what is left of it.
func TestErrors(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{}))
	s := openSession(t, w)
	for name, want := range failures {
		for _, verb := range []string{"fail ", "lose "} {
			op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte(verb + name)}, In: []byte("x"), Out: make([]byte, 8)}
			lost := s.Do(&op)
			if (lost != nil) != (verb == "lose ") || lost != nil && lost != hsm.ErrClosed {
				t.Errorf("%s%s: Do returned %v", verb, name, lost)
			}
			if len(op.Out) != 0 {
				t.Errorf("%s%s: result of %d bytes", verb, name, len(op.Out))
			}
			got := op.Err
			if got == nil || got.Error() != want.Error() || hsm.FaultOf(got) != hsm.FaultOf(want) {
				t.Errorf("%s%s: got %v (fault %v), want %v (fault %v)", verb, name, got, hsm.FaultOf(got), want, hsm.FaultOf(want))
			}
			for _, sentinel := range sentinels {
				if errors.Is(got, sentinel) != errors.Is(want, sentinel) {
					t.Errorf("%s%s: errors.Is(%v) is %v", verb, name, sentinel, errors.Is(got, sentinel))
				}
			}
			var g, e *hsm.Error
			if errors.As(got, &g) != errors.As(want, &e) || g != nil && *g != *e {
				t.Errorf("%s%s: code %+v, want %+v", verb, name, g, e)
			}
		}
	}
}

// TestOpenFails: a start that fails says whose fault it is, and leaves no process behind.
func TestOpenFails(t *testing.T) {
	for name, want := range failures {
		if name == "empty" {
			continue // Spawn adds its own words
		}
		_, err := Spawn(t.Context(), config(t, "echo", echoParams{Fail: name}))
		if hsm.FaultOf(err) != hsm.FaultOf(want) || !strings.HasSuffix(err.Error(), want.Error()) || !strings.Contains(err.Error(), "m1") {
			t.Errorf("%s: %v (fault %v)", name, err, hsm.FaultOf(err))
		}
	}
	var log lines
	c := config(t, "quit", nil)
	c.Log = log.logger()
	if _, err := Spawn(t.Context(), c); !errors.Is(err, hsm.ErrLinkLost) || !strings.Contains(log.String(), "cannot load the library") {
		t.Errorf("a worker that ends: %v; log %s", err, log.String())
	}
	for _, role := range []string{"mute", "babble"} {
		c := config(t, role, nil)
		c.StartTimeout = 100 * time.Millisecond
		if _, err := Spawn(t.Context(), c); hsm.FaultOf(err) != hsm.Device || role == "mute" && !errors.Is(err, hsm.ErrHung) {
			t.Errorf("%s: %v", role, err)
		}
	}
	c = config(t, "mute", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Spawn(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that leaves: %v", err)
	}
	c.Argv = []string{"/nonexistent/keyway", "worker"}
	if _, err := Spawn(t.Context(), c); !errors.Is(err, os.ErrNotExist) || hsm.FaultOf(err) != hsm.Device {
		t.Errorf("no such program: %v", err)
	}
	if children := childrenOf(t, os.Getpid()); len(children) != 0 {
		t.Errorf("processes left behind: %v", children)
	}
}

// TestSessionsEnd: sessions that were closed, refused or given up are gone in the worker too.
func TestSessionsEnd(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{Count: 3}))
	a, b := openSession(t, w), openSession(t, w)
	c := openSession(t, w)
	if _, err := w.OpenSession(t.Context()); hsm.FaultOf(err) != hsm.Busy {
		t.Errorf("one too many: %v", err)
	}
	if err := errors.Join(b.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for range 100 {
		go cancel()
		s, err := w.OpenSession(ctx)
		if err == nil {
			err = s.Close()
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
	}
	cancel()
	for {
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte("sessions")}}
		if err := a.Do(&op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
		if n := binary.LittleEndian.Uint64(op.Out); n == 1 {
			break
		} // sessions that were given up close in their own time; the test's deadline ends a wait in vain
		time.Sleep(time.Millisecond)
	}
}

// TestManySessions has many sessions work at once and looks at every answer.
func TestManySessions(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{}))
	var wg sync.WaitGroup
	for i := range 64 {
		s := openSession(t, w)
		wg.Go(func() {
			var op hsm.Op
			for j := range 200 {
				in := bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", i, j)), 1+(i*j)%300)
				op = hsm.Op{Kind: hsm.OpSign, In: in, Out: op.Out}
				if err := s.Do(&op); err != nil || op.Err != nil || !bytes.Equal(op.Out, in) {
					t.Errorf("session %d, call %d: %v, %v", i, j, err, op.Err)
					return
				}
			}
		})
	}
	wg.Wait()
}
