//go:build linux && !race

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"testing"

	"keyway/hsm"
)

// TestAllocations: the supervisor's side of an operation, every goroutine of it, allocates nothing.
func TestAllocations(t *testing.T) {
	w := spawn(t, config(t, "echo", echoParams{}))
	s := openSession(t, w)
	in := make([]byte, 32)
	op := hsm.Op{Kind: hsm.OpSign, In: in, Out: make([]byte, 0, 64)}
	n := testing.AllocsPerRun(1000, func() {
		if err := s.Do(&op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// TestServedAllocations: nor does the worker's side; what the token allocates is its own.
func TestServedAllocations(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- serve(conn, func(context.Context, json.RawMessage, hsm.PIN) (hsm.Token, error) { return &fuzzToken{}, nil })
	}()
	c, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	_ = theirs.Close()
	l := newLink(c)
	ask := func(f frame) []byte {
		if _, err := c.Write(f.append(nil)); err != nil {
			t.Fatal(err)
		}
		b, err := l.receive()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ask(&hello{[]byte("{}"), []byte("1234")})
	ask(&question{head: head{verbOpen, 1, 1}})
	b := (&question{head: head{verbDo, 1, 2}, op: hsm.Op{Kind: hsm.OpEncrypt, Mech: hsm.Mechanism{Type: hsm.AESGCM, AAD: []byte("aad")}, In: bytes.Repeat([]byte{7}, 32)}}).append(nil)
	n := testing.AllocsPerRun(1000, func() { // asks without an allocation of its own
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if got, err := l.receive(); err != nil || got[len(got)-1] != 7 {
			t.Fatalf("%x, %v", got, err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
