package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
)

// closeGrace is how long a worker may take to log out and end before it is killed.
const closeGrace = 2 * time.Second

// Token is a token in a worker process. It implements [hsm.Token] and [hsm.Process].
// Its sessions are Keepers if those of the worker's token are.
type Token struct {
	name string
	log  *slog.Logger
	proc *os.Process
	link *link
	info hsm.Info

	busy    atomic.Int64 // calls under way
	dead    atomic.Bool  // no call will be answered any more
	closing atomic.Bool
	closed  sync.Once
	heard   chan struct{} // the receiver is through
	ended   chan struct{} // the process was reaped and every call under way has returned or will at once

	mu       sync.Mutex
	last     uint32 // the number last given to a session or ping; none is used twice
	sessions map[uint32]*session
	pings    map[uint32]chan struct{}
}

var (
	_ hsm.Token   = (*Token)(nil)
	_ hsm.Process = (*Token)(nil)
)

// Info tells what the token is, as the worker reported it when it started.
func (t *Token) Info() hsm.Info { return t.info }

// PID is the worker's process id.
func (t *Token) PID() int { return t.proc.Pid }

// Kill ends the worker at once, whatever it is doing. It does not wait; every call
// under way returns [hsm.ErrLinkLost] without waiting for the process's end.
func (t *Token) Kill() {
	_ = t.proc.Kill()
	_ = t.link.conn.Close()
}

// Done is closed when the worker has ended and was reaped.
func (t *Token) Done() <-chan struct{} { return t.ended }

// Memory returns the worker's resident memory in bytes, as proc(5) tells it in statm; it needs Linux.
func (t *Token) Memory() (int64, error) {
	name := fmt.Sprintf("/proc/%d/statm", t.PID())
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, fmt.Errorf("memory of worker %s: %w", t.name, err)
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("memory of worker %s: %s has no resident size", t.name, name)
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of worker %s: %s: %w", t.name, name, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// Ping waits for a sign of life of the worker: nil, ctx's error, or [hsm.ErrLinkLost]. The goroutine that answers
// never enters the token's library, so an answer says that the process lives and its socket
// flows, not that the token works.
func (t *Token) Ping(ctx context.Context) error {
	answered := make(chan struct{})
	t.mu.Lock()
	if t.dead.Load() {
		t.mu.Unlock()
		return t.gone()
	}
	t.last++
	seq := t.last
	t.pings[seq] = answered
	t.mu.Unlock()
	_ = send(t.link, &question{head: head{verb: verbPing, seq: seq}}, false)
	select {
	case <-answered:
		if t.dead.Load() {
			return t.gone()
		}
		return nil
	case <-ctx.Done():
		t.mu.Lock()
		delete(t.pings, seq)
		t.mu.Unlock()
		return ctx.Err()
	}
}

// OpenSession opens a session in the worker. When ctx ends first, the worker gives the opening up, or closes the
// session as soon as it is open.
func (t *Token) OpenSession(ctx context.Context) (hsm.Session, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &session{token: t, done: make(chan struct{}, 1)}
	t.mu.Lock()
	if t.dead.Load() || t.closing.Load() {
		t.mu.Unlock()
		return nil, t.gone()
	}
	if t.last++; t.last == 0 {
		t.mu.Unlock()
		t.Kill() // four thousand million sessions and pings: a fresh worker counts anew
		return nil, t.gone()
	}
	s.id = t.last
	t.sessions[s.id] = s
	t.mu.Unlock()
	if err := s.begin(); err != nil {
		t.forget(s.id)
		return nil, err
	}
	s.q = question{head: head{verb: verbOpen}}
	a := s.ask(ctx, nil)
	if a.err != nil {
		t.forget(s.id)
		// The worker keeps a place for the session until it is closed, and when ctx ended it may still open it.
		_ = send(t.link, &question{head: head{verb: verbClose, session: s.id}}, false)
		return nil, a.err
	}
	if len(a.out) == 1 && a.out[0] == 0 {
		return bare{s}, nil
	}
	return s, nil
}

// Close asks the worker to end by closing our half of its socket, kills it when it has not after two
// seconds, and waits until it was reaped. It is safe to call twice.
func (t *Token) Close() error {
	t.closed.Do(func() {
		t.closing.Store(true)
		if c, ok := t.link.conn.(*net.UnixConn); ok {
			_ = c.CloseWrite()
		}
		if t.wait(closeGrace) {
			return
		}
		t.log.Warn("worker did not end in time and is killed", "worker", t.name, "pid", t.PID(), "after", closeGrace)
		t.Kill()
	})
	// A process in an uninterruptible wait of the kernel survives even SIGKILL for a while.
	if !t.wait(5 * time.Second) {
		return fmt.Errorf("worker %s: process %d was killed and has not ended; look at what its driver waits for in the kernel", t.name, t.PID())
	}
	return nil
}

// wait reports whether the process ended within d.
func (t *Token) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-t.ended:
		return true
	case <-timer.C:
		return false
	}
}

// gone is why nothing can be asked any more: whoever closed the token knows, everybody else has lost it.
func (t *Token) gone() error {
	if t.closing.Load() {
		return hsm.ErrClosed
	}
	return hsm.ErrLinkLost
}

func (t *Token) forget(id uint32) {
	t.mu.Lock()
	delete(t.sessions, id)
	t.mu.Unlock()
}

// receive hands out the worker's answers until the connection ends, then fails every call under way.
func (t *Token) receive() {
	defer close(t.heard)
	var err error
	for err == nil {
		var frame []byte
		if frame, err = t.link.receive(); err == nil {
			err = t.settle(frame)
		}
	}
	t.dead.Store(true)
	lost := t.gone()
	t.mu.Lock()
	for _, s := range t.sessions {
		if s.state.Load() == waiting {
			s.finish(answer{err: lost, lost: lost})
		}
	}
	clear(t.sessions)
	for seq, c := range t.pings {
		close(c)
		delete(t.pings, seq)
	}
	t.mu.Unlock()
	if errors.Is(err, errFrame) {
		t.log.Error("worker does not speak the protocol and is killed", "worker", t.name, "pid", t.PID(), "error", err)
	}
	if !t.closing.Load() || errors.Is(err, errFrame) {
		t.Kill() // whatever ended the conversation, the process is of no more use
	}
	t.link.close(lost)
}

// settle gives one answer to whom it belongs.
func (t *Token) settle(frame []byte) error {
	h, f, err := parseFrame(frame)
	if err != nil {
		return err
	}
	if h.verb == verbPing|answerBit {
		t.mu.Lock()
		c := t.pings[h.seq]
		delete(t.pings, h.seq)
		t.mu.Unlock()
		if c != nil {
			close(c)
		}
		return nil
	}
	a := answer{head: h}
	if err := a.parse(&f); err != nil {
		return err
	}
	t.mu.Lock()
	s := t.sessions[h.session]
	t.mu.Unlock()
	if s == nil {
		return nil // the answer to a call that was given up
	}
	if !s.settle(a) {
		return fmt.Errorf("%w: an answer that nobody asked for", errFrame)
	}
	return nil
}
