package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"keyway/hsm"
)

const (
	// inherited is the file descriptor of the worker's end of the socket pair.
	inherited = 3
	// endGrace is how long sessions and login may take to end when the parent has gone. It is less than
	// the parent's patience.
	endGrace = closeGrace * 3 / 4
	// maxSessions bounds the goroutines a parent can make a worker have.
	maxSessions = 4096
)

// Open opens the token of a worker. params is what [Config].Params was marshalled to. pin is wiped
// when Open has returned. ctx ends with the parent.
type Open = func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error)

// Serve is the whole life of a worker process: on the socket inherited as file descriptor 3 it reads the parent's hello,
// opens the token, and serves until the parent closes its end or is gone. It returns the error of open, nil
// after a good life. The program is to exit when Serve returns: calls that hang in a library are not waited for.
//
// Before anything secret arrives the process gives up core files and being attached to. It ignores SIGINT,
// SIGTERM and SIGHUP, which service managers send to every process of a service, since it has to serve until its
// parent has drained; the end of the socket is what ends it.
func Serve(open Open) error {
	if err := harden(); err != nil {
		return fmt.Errorf("hardening the worker process: %w", err)
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	f := os.NewFile(inherited, "supervisor")
	conn, err := net.FileConn(f) // a duplicate, closed on exec
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("no supervisor: keyway starts its workers itself, with a socket as file descriptor %d: %w", inherited, err)
	}
	return serve(conn, open)
}

// serve serves one parent.
func serve(conn net.Conn, open Open) error {
	s := &server{link: newLink(conn), sessions: map[uint32]*served{}, pace: newPace()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	defer s.cancel()
	defer s.link.close(hsm.ErrLinkLost)
	frame, err := s.link.receive()
	if err != nil {
		return fmt.Errorf("reading the supervisor's hello: %w", err)
	}
	h, err := parseHello(frame)
	if err != nil {
		_ = send(s.link, &answer{head: head{verb: verbHello}, err: err}, false)
		return err
	}
	pin := hsm.NewPIN(h.pin)
	clear(frame)

	// The parent says nothing more until it has its answer, so what the receiver finds meanwhile is the parent's end: then open,
	// which may hang in a library, is not waited for.
	opened := make(chan error, 1)
	go func() {
		token, err := open(s.ctx, h.params, pin)
		pin.Wipe()
		if err == nil {
			s.token = token
			err = s.greet()
		} else {
			_ = send(s.link, &answer{head: head{verb: verbHello}, err: err}, false)
		}
		opened <- err
	}()
	heard := make(chan error, 1)
	go func() { heard <- s.receive() }()
	select {
	case err = <-opened:
		if err != nil {
			s.link.close(hsm.ErrLinkLost)
			<-heard
			return err
		}
		err = <-heard
	case err = <-heard:
		select {
		case oerr := <-opened:
			if oerr != nil {
				return oerr
			}
		default:
			// The parent may leave as soon as it was greeted, before opened is seen here.
			if !s.open.Load() {
				return fmt.Errorf("the supervisor ended before the token was open: %w", err)
			}
		}
	}
	s.cancel()
	s.end()
	if err == io.EOF || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

// server is a worker's state: one goroutine for each open session, which alone enters the library.
type server struct {
	link   *link
	ctx    context.Context // ends with the parent
	cancel context.CancelFunc
	token  hsm.Token
	open   atomic.Bool // token is set

	sessions map[uint32]*served // the receiver's own
	busy     atomic.Int64       // calls under way
	cost     atomic.Int64       // a moving average of what a call takes, in nanoseconds
	pace     *pace
	wg       sync.WaitGroup
}

// greet answers the hello with what the token is.
func (s *server) greet() error {
	info, err := json.Marshal(s.token.Info())
	if err != nil {
		return err
	}
	s.open.Store(true)
	return send(s.link, &answer{head: head{verb: verbHello}, out: info}, false)
}

// receive hands out the parent's questions until the connection ends.
func (s *server) receive() error {
	defer func() {
		for id, ss := range s.sessions {
			ss.leave()
			delete(s.sessions, id)
		}
	}()
	for {
		frame, err := s.link.receive()
		if err != nil {
			return err
		}
		if err := s.take(frame); err != nil {
			return err
		}
	}
}

// take hands one question to its session. It never waits, so that a ping is answered whatever the library does.
func (s *server) take(frame []byte) error {
	h, f, err := parseFrame(frame)
	if err != nil {
		return err
	}
	if h.verb == verbPing {
		return send(s.link, &answer{head: h}, false)
	}
	if !s.open.Load() {
		return fmt.Errorf("%w: a question before the token was open", errFrame)
	}
	ss := s.sessions[h.session]
	switch {
	case h.verb == verbOpen && ss == nil:
		if len(s.sessions) >= maxSessions {
			return send(s.link, &answer{head: h, err: &hsm.Error{Code: hsm.SessionCount, Function: hsm.FnOpenSession}}, false)
		}
		ss = newServed(s, h.session)
		s.sessions[h.session] = ss
	case h.verb == verbOpen:
		return fmt.Errorf("%w: session %d is open", errFrame, h.session)
	case ss == nil && h.seq == 0:
		return nil // a session that could not be opened was given up
	case ss == nil:
		return send(s.link, &answer{head: h, err: hsm.ErrClosed, lost: hsm.ErrClosed}, false)
	}
	if h.verb == verbClose {
		delete(s.sessions, h.session)
		ss.closeSeq = h.seq
		ss.leave()
		return nil
	}
	return ss.put(h, f)
}

// spent takes a call's duration into the average, which it returns. Calls that end at the same moment
// may overwrite each other's share; it is an estimate.
func (s *server) spent(d time.Duration) time.Duration {
	was := s.cost.Load()
	now := was + (int64(d)-was)/8
	s.cost.Store(now)
	s.pace.spent(time.Duration(now))
	return time.Duration(now)
}

// end closes what is open. What hangs in a library is left to the end of the process.
func (s *server) end() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.wg.Wait()
		_ = s.token.Close()
	}()
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
