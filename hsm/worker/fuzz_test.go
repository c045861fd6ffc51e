//go:build linux

package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"keyway/hsm"
)

// FuzzReceive cuts any stream into any pieces: the receiver finds the frames that are there, says what is wrong with the
// first one that is none, and keeps nothing of what it has handed out.
func FuzzReceive(f *testing.F) {
	for _, q := range questions() {
		f.Add(q.append(nil), uint16(3))
	}
	f.Add([]byte("\x09\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00"), uint16(5))
	f.Add(append((&question{head: head{verb: verbDo}, op: hsm.Op{In: make([]byte, readSize)}}).append(nil), 1, 2), uint16(4096))
	f.Add([]byte("\xff\xff\xff\x7f"), uint16(1))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint16) {
		var want [][]byte
		rest, end := stream, io.EOF
		for len(rest) > 0 {
			if len(rest) < sizeLen {
				end = io.ErrUnexpectedEOF
				break
			}
			n := binary.LittleEndian.Uint32(rest)
			if n < headLen || n > maxFrame {
				end = errFrame
				break
			}
			if uint64(len(rest)-sizeLen) < uint64(n) {
				end = io.ErrUnexpectedEOF
				break
			}
			want = append(want, rest[sizeLen:sizeLen+n])
			rest = rest[sizeLen+n:]
		}
		l := newLink(&pieces{b: stream, n: int(piece)%8192 + 1})
		for i, w := range want {
			if got, err := l.receive(); err != nil || !bytes.Equal(got, w) {
				t.Fatalf("frame %d of %d: %d bytes, %v; want %d", i, len(want), len(got), err, len(w))
			}
		}
		if got, err := l.receive(); !errors.Is(err, end) {
			t.Fatalf("at the end: %d bytes, %v; want %v", len(got), err, end)
		}
		if bytes.ContainsFunc(l.buf[:l.r], func(r rune) bool { return r != 0 }) {
			t.Error("the receiver keeps what it handed out")
		}
	})
}

// pieces is a connection that brings n bytes at a time.
type pieces struct {
	net.Conn
	b []byte
	n int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// FuzzSettle gives a supervisor any frame while one call waits: whatever it is, nothing panics, at most that one call is
// answered, and a result is beside no error and in no memory but Out's.
func FuzzSettle(f *testing.F) {
	for _, a := range answers() {
		a.head = head{verbDo, 1, 1}
		f.Add(a.append(nil)[sizeLen:])
	}
	f.Add((&answer{head: head{verb: verbPing, seq: 3}}).append(nil)[sizeLen:])
	f.Fuzz(func(t *testing.T, frame []byte) {
		memory := bytes.Repeat([]byte{0x55}, 40)
		s := &session{id: 1, done: make(chan struct{}, 1), seq: 1, out: memory[:0:20]}
		s.q.verb, s.q.seq = verbDo, 1
		s.state.Store(waiting)
		idleOne := &session{id: 2, done: make(chan struct{}, 1)}
		w := &Token{sessions: map[uint32]*session{1: s, 2: idleOne}, pings: map[uint32]chan struct{}{3: make(chan struct{})}}
		err := w.settle(bytes.Clone(frame))
		if len(idleOne.done) != 0 {
			t.Fatal("a call that was not made was answered")
		}
		if !bytes.Equal(memory[20:], bytes.Repeat([]byte{0x55}, 20)) {
			t.Fatal("memory beyond Out was written")
		}
		if len(s.done) == 0 {
			return
		}
		if err != nil {
			t.Fatalf("answered and refused: %v", err)
		}
		if s.a.err != nil && len(s.a.out) != 0 || s.a.lost != nil && s.a.err == nil {
			t.Fatalf("%d bytes beside %v, lost %v", len(s.a.out), s.a.err, s.a.lost)
		}
		if s.a.err != nil && len(s.a.err.Error()) > 4*maxText {
			t.Fatalf("an error of %d bytes", len(s.a.err.Error()))
		}
	})
}

// FuzzServe lets a worker hear anything after a good hello: it ends when its supervisor does, without a panic, whatever it heard.
func FuzzServe(f *testing.F) {
	open := func(n uint32) question { return question{head: head{verbOpen, n, 1}} }
	one := open(1)
	start := one.append(nil)
	for _, q := range questions() {
		q.session, q.seq = 1, 2
		f.Add(append(bytes.Clone(start), q.append(nil)...))
	}
	f.Add(append(bytes.Clone(start), start...))
	f.Add((&question{head: head{verb: verbPing, seq: 9}}).append(nil))
	f.Fuzz(func(t *testing.T, stream []byte) {
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = serve(theirs, func(context.Context, json.RawMessage, hsm.PIN) (hsm.Token, error) { return &fuzzToken{}, nil })
		}()
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			_, _ = io.Copy(io.Discard, ours)
		}()
		h := hello{[]byte("{}"), []byte("1234")}
		if _, err := ours.Write(h.append(nil)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // mostly the token is open then; what comes before is refused
		_, _ = ours.Write(stream)    // it may have ended already
		_ = ours.Close()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the worker does not end")
		}
		<-heard
	})
}

// fuzzToken is an echo that cannot be told to end the process.
type fuzzToken struct{ echoToken }

func (t *fuzzToken) OpenSession(ctx context.Context) (hsm.Session, error) {
	s, err := t.echoToken.OpenSession(ctx)
	if err != nil {
		return nil, err
	}
	return &fuzzSession{s.(*echoSession)}, nil
}

type fuzzSession struct{ *echoSession }

func (s *fuzzSession) Do(op *hsm.Op) error {
	op.Out, op.Err = append(op.Out[:0], op.In...), nil
	return nil
}
