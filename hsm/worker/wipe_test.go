//go:build linux

package worker

import (
	"bytes"
	"net"
	"testing"

	"keyway/hsm"
)

// buffers returns everything the link holds, to its capacity.
func buffers(l *link) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []byte
	for _, b := range [][]byte{l.pending, l.spare, l.buf} {
		all = append(all, b[:cap(b)]...)
	}
	return all
}

// TestWiped looks for clear text in every buffer of both ends after the calls that carried it.
func TestWiped(t *testing.T) {
	marker := []byte("marker of a clear text")
	ours, theirs := net.Pipe()
	parent, child := newLink(ours), newLink(theirs)
	defer parent.close(hsm.ErrClosed)
	defer child.close(hsm.ErrClosed)
	for _, n := range []int{1, 1000, 200_000} { // the second and third make buffers grow
		sent := make(chan error, 1)
		in := bytes.Repeat(marker, n)
		go func() {
			sent <- send(parent, &question{head: head{verb: verbDo}, op: hsm.Op{In: in}}, false)
		}()
		if frame, err := child.receive(); err != nil || !bytes.Contains(frame, marker) {
			t.Fatalf("the marker did not arrive: %v", err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		go func() { sent <- send(parent, &question{head: head{verb: verbPing}}, false) }()
		if _, err := child.receive(); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(buffers(parent), marker) {
			t.Errorf("%d markers: the sender keeps them", n)
		}
		if bytes.Contains(buffers(child), marker) {
			t.Errorf("%d markers: the receiver keeps them", n)
		}
	}

	// A buffer that grows leaves nothing behind in the smaller one.
	small := append(make([]byte, 0, 64), marker...)
	if big := grow(small, 1000); !bytes.HasPrefix(big, marker) || bytes.Contains(small[:cap(small)], marker) {
		t.Error("growing leaves a copy")
	}

	// The supervisor's side of a real worker: its own buffers, and those of the session.
	w := spawn(t, config(t, "echo", echoParams{}))
	s := openSession(t, w)
	op := hsm.Op{Kind: hsm.OpSign, In: bytes.Repeat(marker, 10)}
	if err := s.Do(&op); err != nil || op.Err != nil {
		t.Fatal(err, op.Err)
	}
	clear(op.Out)
	if q := s.(*session).q; q.op.In != nil || s.(*session).out != nil {
		t.Error("the session keeps the caller's slices")
	}
	if err := w.Ping(t.Context()); err != nil { // the receiver goes on to the next frame
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // and ends, so that its buffer may be looked at
		t.Fatal(err)
	}
	if bytes.Contains(buffers(w.link), marker) {
		t.Error("the supervisor keeps a clear text after the call")
	}
}

// TestServedWiped looks into a worker's session after a call.
func TestServedWiped(t *testing.T) {
	marker := []byte("marker of a clear text")
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { // somebody takes the answers
		l := newLink(ours)
		for {
			if _, err := l.receive(); err != nil {
				return
			}
		}
	}()
	s := &server{link: newLink(theirs), ctx: t.Context(), token: &echoToken{}, pace: newPace()}
	ss := &served{server: s, id: 1, work: make(chan struct{}, 1), cancel: func() {}}
	ss.free.Store(true)
	ss.session = &echoSession{token: &echoToken{}}
	q := question{head: head{verbDo, 1, 1}, op: hsm.Op{Kind: hsm.OpSign, In: marker}}
	h, f, err := parseFrame(q.append(nil)[sizeLen:])
	if err != nil {
		t.Fatal(err)
	}
	if err := ss.put(h, f); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(ss.body, marker) {
		t.Fatal("the question is not where this test looks")
	}
	close(ss.work)
	s.wg.Add(1)
	ss.run()
	for name, b := range map[string][]byte{"question": ss.body, "result": ss.op.Out} {
		if b = b[:cap(b)]; len(b) == 0 || bytes.Contains(b, marker) {
			t.Errorf("the worker keeps the %s", name)
		}
	}
	s.link.close(hsm.ErrClosed)
}
