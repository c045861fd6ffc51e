package worker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"keyway/hsm"
)

// hello is what the parent sends first.
type hello struct {
	Params json.RawMessage `json:"params"`
	PIN    []byte          `json:"pin"`
}

// Serve runs the child's side of the border on the inherited socket, file descriptor 3. It reads
// the parent's greeting, opens the token with it (the PIN is wiped as soon as open has returned),
// and serves until the parent closes its end or is gone. The process should exit when Serve returns.
//
// The process makes itself undumpable first, so that neither a core file nor
// another process of the same user can read its memory.
func Serve(open func(ctx context.Context, params json.RawMessage, pin hsm.PIN) (hsm.Token, error)) error {
	if err := harden(); err != nil {
		return fmt.Errorf("hardening the worker process: %w", err)
	}
	f := os.NewFile(3, "parent")
	if f == nil {
		return errors.New("a worker is started by keyway itself: there is no socket to a parent process")
	}
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("a worker is started by keyway itself: there is no socket to a parent process: %w", err)
	}
	return serveConn(conn, open)
}

func serveConn(conn io.ReadWriteCloser, open func(context.Context, json.RawMessage, hsm.PIN) (hsm.Token, error)) error {
	l := newLink(conn)
	defer l.fail(hsm.ErrClosed)
	h, f, err := l.receive()
	if err != nil {
		return fmt.Errorf("reading the parent's greeting: %w", err)
	}
	var g hello
	if err := json.Unmarshal(f.bytes(), &g); h.verb != verbHello || err != nil || f.done() != nil {
		return errors.New("the parent's greeting is not one")
	}
	clear(l.in)
	pin := hsm.NewPIN(g.PIN)
	clear(g.PIN)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	token, err := open(ctx, g.Params, pin)
	pin.Wipe()
	var info []byte
	if err == nil {
		defer token.Close()
		info, err = json.Marshal(token.Info())
	}
	sendErr := l.send(head{verb: verbHello | answerBit}, func(b []byte) []byte { return putBytes(putErr(b, err), info) })
	if err != nil || sendErr != nil {
		return err
	}
	s := &server{link: l, token: token, sessions: map[uint32]*servedSession{}}
	defer s.close()
	for {
		h, f, err := l.receive()
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if err := s.dispatch(ctx, h, f); err != nil {
			return err
		}
	}
}

// server is the child's state: one goroutine for each open session.
type server struct {
	link  *link
	token hsm.Token

	mu       sync.Mutex
	sessions map[uint32]*servedSession
	wg       sync.WaitGroup
}

type servedSession struct {
	id   uint32
	work chan request
}

// request is a frame's copy: the reader goes on to the next frame while the session works.
type request struct {
	head head
	body []byte
}

var requestBodies = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

func (s *server) dispatch(ctx context.Context, h head, f *fields) error {
	switch h.verb {
	case verbPing:
		return s.link.send(head{verb: verbPing | answerBit, seq: h.seq}, nil)
	case verbOpen:
		s.wg.Add(1)
		go s.open(ctx, h)
		return nil
	}
	s.mu.Lock()
	ss := s.sessions[h.session]
	s.mu.Unlock()
	if ss == nil {
		return s.answer(h, hsm.ErrClosed, true, nil)
	}
	body := *requestBodies.Get().(*[]byte)
	body = append(body[:0], f.b...)
	select {
	case ss.work <- request{h, body}:
		return nil
	default:
		// A session has one call under way; a parent that sends more has lost count.
		return fmt.Errorf("%w: two calls at once for one session", errFrame)
	}
}

// open opens a session and becomes its goroutine.
func (s *server) open(ctx context.Context, h head) {
	defer s.wg.Done()
	sess, err := s.token.OpenSession(ctx)
	if err != nil {
		_ = s.answer(h, err, true, nil)
		return
	}
	defer sess.Close()
	ss := &servedSession{id: h.session, work: make(chan request, 1)}
	s.mu.Lock()
	s.sessions[h.session] = ss
	s.mu.Unlock()
	_, keeper := sess.(hsm.Keeper)
	_ = s.answer(h, nil, false, func(b []byte) []byte { return append(b, flag(keeper)) })
	c := &calls{server: s, session: sess}
	for r := range ss.work {
		stop := c.run(r)
		clear(r.body)
		r.body = r.body[:0]
		requestBodies.Put(&r.body)
		if stop {
			s.mu.Lock()
			delete(s.sessions, h.session)
			s.mu.Unlock()
			return
		}
	}
}

// close ends every session's goroutine. One that hangs in a library is left to the process's end.
func (s *server) close() {
	s.mu.Lock()
	for id, ss := range s.sessions {
		close(ss.work)
		delete(s.sessions, id)
	}
	s.mu.Unlock()
}

// answer sends the answer to h: the error, whether the session is lost, and what put adds.
func (s *server) answer(h head, err error, lost bool, put func([]byte) []byte) error {
	h.verb |= answerBit
	return s.link.send(h, func(b []byte) []byte {
		b = putErr(b, err)
		b = append(b, flag(lost))
		if lost && h.verb == verbDo|answerBit {
			b = putErr(b, err)
		}
		if put != nil && err == nil {
			b = put(b)
		}
		return b
	})
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// calls runs the calls of one session.
type calls struct {
	server  *server
	session hsm.Session
	op      hsm.Op
}

// run answers one request and reports whether the session is over.
func (c *calls) run(r request) bool {
	f := &fields{b: r.body}
	if r.head.verb == verbDo {
		return c.do(r.head, f)
	}
	if r.head.verb == verbClose {
		_ = c.server.answer(r.head, c.session.Close(), true, nil)
		return true
	}
	var put func([]byte) []byte
	var err error
	if r.head.verb == verbFind {
		class, id := hsm.Class(f.u8()), f.bytes()
		var h hsm.Handle
		if err = f.done(); err == nil {
			h, err = c.session.Find(class, id)
		}
		put = putHandle(h)
	} else if k, ok := c.session.(hsm.Keeper); ok {
		put, err = keep(k, r.head.verb, f)
	} else {
		err = fmt.Errorf("%w: this token's sessions keep no keys", hsm.ErrUnsupported)
	}
	_ = c.server.answer(r.head, err, false, put)
	return false
}

func (c *calls) do(h head, f *fields) bool {
	op := &c.op
	if err := takeOp(f, op); err != nil {
		_ = c.server.answer(h, err, true, nil)
		return true
	}
	op.Out, op.Err = op.Out[:0], nil
	lost := c.session.Do(op)
	h.verb |= answerBit
	_ = c.server.link.send(h, func(b []byte) []byte {
		b = putErr(b, op.Err)
		b = append(b, flag(lost != nil))
		if lost != nil {
			b = putErr(b, lost)
		}
		return append(b, op.Out...)
	})
	clear(op.Out[:cap(op.Out)])
	op.In, op.Mech.AAD = nil, nil
	return false
}

func putHandle(h hsm.Handle) func([]byte) []byte {
	return func(b []byte) []byte { return binary.LittleEndian.AppendUint64(b, uint64(h)) }
}

// keep runs one Keeper call.
func keep(k hsm.Keeper, verb byte, f *fields) (func([]byte) []byte, error) {
	var h hsm.Handle
	var out []byte
	var err error
	switch verb {
	case verbGenerate:
		s := takeSpec(f)
		if err = f.done(); err == nil {
			h, err = k.Generate(s)
		}
		return putHandle(h), err
	case verbImport:
		s, material := takeSpec(f), f.bytes()
		if err = f.done(); err == nil {
			h, err = k.Import(s, material)
		}
		return putHandle(h), err
	case verbUnwrap:
		kek, m, s, blob := hsm.Handle(f.u64()), takeMechanism(f), takeSpec(f), f.bytes()
		if err = f.done(); err == nil {
			h, err = k.UnwrapKey(kek, m, blob, s)
		}
		return putHandle(h), err
	case verbDestroy:
		h = hsm.Handle(f.u64())
		if err = f.done(); err == nil {
			err = k.Destroy(h)
		}
		return nil, err
	case verbPublic:
		h = hsm.Handle(f.u64())
		if err = f.done(); err == nil {
			out, err = k.Public(h)
		}
	case verbWrap:
		kek, m, key := hsm.Handle(f.u64()), takeMechanism(f), hsm.Handle(f.u64())
		if err = f.done(); err == nil {
			out, err = k.WrapKey(kek, m, key)
		}
	default:
		return nil, fmt.Errorf("%w: unknown verb %d", errFrame, verb)
	}
	return func(b []byte) []byte { return append(b, out...) }, err
}

func putMechanism(b []byte, m hsm.Mechanism) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Type))
	return append(b, byte(m.Hash))
}

func takeMechanism(f *fields) hsm.Mechanism {
	return hsm.Mechanism{Type: hsm.MechanismType(f.u32()), Hash: hsm.Hash(f.u8())}
}
