package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"keyway/hsm"
)

// Config says how to start a worker.
type Config struct {
	// Name is the member's name, for the log.
	Name string
	// Argv is the worker's command line; the program must call [Serve]. Everybody may read it, so nothing secret goes into it.
	Argv []string
	// Env is the worker's whole environment. Vendor libraries are configured by it; nothing secret goes into it.
	Env []string
	// Params is marshalled to JSON and handed to the worker's open function.
	Params any
	// PIN is handed to the worker's open function over the socket. Spawn does not wipe it.
	PIN hsm.PIN
	// StartTimeout bounds the start until the token is open. Default 20 s.
	StartTimeout time.Duration
	// Log receives what the worker writes to standard error, line by line. Default: discard.
	Log *slog.Logger
}

// Token is a token in a worker process. It implements [hsm.Token] and [hsm.Process].
type Token struct {
	cmd  *exec.Cmd
	link *link
	info hsm.Info
	done chan struct{} // closed when the process has ended and every waiter was told

	mu     sync.Mutex
	next   uint32
	calls  map[uint32]*session // by session id
	pings  map[uint32]chan struct{}
	closed bool
}

var (
	_ hsm.Token   = (*Token)(nil)
	_ hsm.Process = (*Token)(nil)
)

// Spawn starts a worker and waits until its token is open. The error of the worker's open
// function comes back with its fault; every other failure to start is a Device fault.
func Spawn(ctx context.Context, cfg Config) (*Token, error) {
	if len(cfg.Argv) == 0 {
		return nil, errors.New("worker: no command")
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	params, err := json.Marshal(cfg.Params)
	if err != nil {
		return nil, fmt.Errorf("worker %s: parameters: %w", cfg.Name, err)
	}
	conn, childEnd, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("worker %s: socket pair: %w", cfg.Name, err)
	}
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...)
	cmd.Env = append([]string{}, cfg.Env...) // never nil: nil would hand down ours
	cmd.ExtraFiles = []*os.File{childEnd}
	// A process group of its own: a Ctrl-C on the terminal must not end the workers before the drain. If
	// this process dies, the worker sees its socket end and exits.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	_ = childEnd.Close()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("worker %s: cannot start %s: %w", cfg.Name, cfg.Argv[0], err)
	}
	t := &Token{cmd: cmd, link: newLink(conn), done: make(chan struct{}), calls: map[uint32]*session{}, pings: map[uint32]chan struct{}{}}
	logged := make(chan struct{})
	go copyLog(cfg.Log.With("member", cfg.Name, "pid", cmd.Process.Pid), stderr, logged)

	deadline := time.AfterFunc(cfg.StartTimeout, t.Kill)
	stop := context.AfterFunc(ctx, t.Kill)
	err = t.greet(params, cfg.PIN)
	inTime := deadline.Stop()
	alive := stop()
	go t.receive(logged)
	if err == nil && inTime && alive {
		return t, nil
	}
	t.Kill()
	<-t.done
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("worker %s: %w", cfg.Name, ctx.Err())
	case !inTime:
		return nil, fmt.Errorf("worker %s: %w: the token was not open after %s", cfg.Name, hsm.ErrHung, cfg.StartTimeout)
	}
	return nil, fmt.Errorf("worker %s: %w", cfg.Name, err)
}

// socketpair returns our end as a connection and the child's as a file, both closed on exec.
func socketpair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(fds[0]), "worker")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "parent")
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// greet sends the parameters and the PIN and reads what the token is.
func (t *Token) greet(params json.RawMessage, pin hsm.PIN) error {
	g, err := json.Marshal(hello{Params: params, PIN: pin.Reveal()})
	if err != nil {
		return err
	}
	err = t.link.send(head{verb: verbHello}, func(b []byte) []byte { return putBytes(b, g) })
	clear(g)
	if err != nil {
		return fmt.Errorf("%w: it ended before it was greeted", hsm.ErrLinkLost)
	}
	h, f, err := t.link.receive()
	if err != nil || h.verb != verbHello|answerBit {
		return fmt.Errorf("%w: it ended before its token was open; its last words are in the log", hsm.ErrLinkLost)
	}
	remote := takeErr(f)
	info := f.bytes()
	if err := f.done(); err != nil {
		return err
	}
	if remote != nil {
		return remote
	}
	return json.Unmarshal(info, &t.info)
}

// copyLog writes the worker's standard error to the log, a line at a time.
func copyLog(log *slog.Logger, r io.Reader, done chan<- struct{}) {
	defer close(done)
	s := bufio.NewScanner(r)
	for s.Scan() {
		log.Warn("worker says", "line", s.Text())
	}
	_, _ = io.Copy(io.Discard, r) // a line too long for the scanner must not block the worker
}
