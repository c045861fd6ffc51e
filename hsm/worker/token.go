package worker

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"time"

	"keyway/hsm"
)

// Info tells what the token is, as the worker reported it when it started.
func (t *Token) Info() hsm.Info { return t.info }

// PID is the worker's process id.
func (t *Token) PID() int { return t.cmd.Process.Pid }

// Kill ends the worker at once. It does not wait.
func (t *Token) Kill() { _ = t.cmd.Process.Kill() }

// Done is closed when the worker has ended.
func (t *Token) Done() <-chan struct{} { return t.done }

// Memory is the worker's resident memory in bytes.
func (t *Token) Memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", t.PID()))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("worker: /proc/%d/statm has no resident size", t.PID())
	}
	n, err := strconv.ParseInt(string(f[1]), 10, 64)
	return n * int64(os.Getpagesize()), err
}

// Ping asks the worker for a sign of life. The goroutine that answers never enters the
// token's library, so an answer means that the process lives, not that the token does.
func (t *Token) Ping(ctx context.Context) error {
	answered := make(chan struct{})
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return hsm.ErrLinkLost
	}
	t.next++
	seq := t.next
	t.pings[seq] = answered
	t.mu.Unlock()
	if err := t.link.send(head{verb: verbPing, seq: seq}, nil); err != nil {
		return hsm.ErrLinkLost
	}
	select {
	case <-answered:
		return nil
	case <-t.done:
		return hsm.ErrLinkLost
	case <-ctx.Done():
		t.mu.Lock()
		delete(t.pings, seq)
		t.mu.Unlock()
		return ctx.Err()
	}
}

// Close asks the worker to end by closing its socket, kills it after a second, and waits for its end. It is safe to call twice.
func (t *Token) Close() error {
	t.link.fail(hsm.ErrLinkLost)
	kill := time.AfterFunc(time.Second, t.Kill)
	<-t.done
	kill.Stop()
	return nil
}

// OpenSession opens a session in the worker. When ctx ends first, the session is closed as soon as it is open.
func (t *Token) OpenSession(ctx context.Context) (hsm.Session, error) {
	s := &session{token: t, answer: make(chan answer, 1)}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, hsm.ErrLinkLost
	}
	t.next++
	s.id = t.next
	t.calls[s.id] = s
	t.mu.Unlock()
	s.seq++
	if err := t.link.send(head{verb: verbOpen, session: s.id, seq: s.seq}, nil); err != nil {
		t.forget(s.id)
		return nil, hsm.ErrLinkLost
	}
	select {
	case a := <-s.answer:
		if a.err != nil {
			t.forget(s.id)
			return nil, a.err
		}
		if len(a.out) == 1 && a.out[0] == 0 {
			return bareSession{s}, nil
		}
		return s, nil
	case <-ctx.Done():
		go func() { // owned by the token: its answer channel is filled at the latest when the worker ends
			if a := <-s.answer; a.err == nil {
				_ = s.Close()
			} else {
				t.forget(s.id)
			}
		}()
		return nil, ctx.Err()
	}
}

func (t *Token) forget(id uint32) {
	t.mu.Lock()
	delete(t.calls, id)
	t.mu.Unlock()
}

// receive hands the worker's answers out until it ends, then tells everybody who waits.
func (t *Token) receive(logged <-chan struct{}) {
	for {
		h, f, err := t.link.receive()
		if err != nil || !t.hand(h, f) {
			break
		}
	}
	// Whatever ended the conversation, the process is of no more use.
	t.link.fail(hsm.ErrLinkLost)
	grace := time.AfterFunc(time.Second, t.Kill)
	<-logged // reads until the process has closed its standard error; only then may Wait be called
	_ = t.cmd.Wait()
	grace.Stop()
	t.mu.Lock()
	t.closed = true
	waiting := t.calls
	t.calls = map[uint32]*session{}
	t.mu.Unlock()
	for _, s := range waiting {
		s.give(answer{err: hsm.ErrLinkLost, lost: hsm.ErrLinkLost})
	}
	close(t.done)
}

// hand gives one answer to whom it belongs, and reports whether the frame made sense.
func (t *Token) hand(h head, f *fields) bool {
	if h.verb == verbPing|answerBit {
		t.mu.Lock()
		c := t.pings[h.seq]
		delete(t.pings, h.seq)
		t.mu.Unlock()
		if c != nil {
			close(c)
		}
		return f.done() == nil
	}
	t.mu.Lock()
	s := t.calls[h.session]
	t.mu.Unlock()
	if s == nil {
		return true // the answer to a session nobody waits for
	}
	a := answer{err: takeErr(f)}
	if f.u8() != 0 {
		a.lost = a.err
		if h.verb == verbDo|answerBit {
			a.lost = takeErr(f)
		}
		if a.lost == nil {
			a.lost = hsm.ErrClosed
		}
	}
	if f.bad {
		return false
	}
	s.out = append(s.out[:0], f.b...)
	a.out = s.out
	s.give(a)
	return true
}

// handleOf reads the handle of an answer.
func handleOf(b []byte) (hsm.Handle, error) {
	if len(b) != 8 {
		return 0, errFrame
	}
	return hsm.Handle(binary.LittleEndian.Uint64(b)), nil
}
