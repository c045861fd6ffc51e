package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"time"

	"keyway/hsm"
)

// Config says how to start a worker.
type Config struct {
	// Name is the member's name, for logs and errors.
	Name string
	// Argv is the worker's command line; the program must call [Serve]. Everybody may read it, so nothing secret goes into it.
	Argv []string
	// Env is the worker's whole environment; nothing is inherited, not even PATH. Vendor libraries are
	// configured by it, for example by SOFTHSM2_CONF. Nothing secret goes into it.
	Env []string
	// Params is marshalled to JSON and handed to the worker's open function.
	Params any
	// PIN is handed to the worker's open function over the socket. It stays the caller's; Spawn does not wipe it.
	PIN hsm.PIN
	// StartTimeout bounds the start until the token is open. Default 20 s.
	StartTimeout time.Duration
	// Log receives what the worker writes to standard output and error, line by line. Default: discard.
	Log *slog.Logger
}

// Spawn starts a worker and waits until its token is open. The error of the worker's open function
// comes back with its fault, so that a wrong PIN is a Locked fault here too; every other failure to start
// is a Device fault. The caller owns the Token and closes it.
func Spawn(ctx context.Context, cfg Config) (*Token, error) {
	if len(cfg.Argv) == 0 {
		return nil, errors.New("worker: no command line")
	}
	if cfg.StartTimeout <= 0 {
		cfg.StartTimeout = 20 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("worker %s: %w", cfg.Name, err)
	}
	params, err := json.Marshal(cfg.Params)
	if err != nil {
		return nil, fmt.Errorf("worker %s: parameters: %w", cfg.Name, err)
	}
	t, err := start(cfg)
	if err != nil {
		return nil, fmt.Errorf("worker %s: starting %s: %w", cfg.Name, cfg.Argv[0], err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout,
		fmt.Errorf("%w: the token was not open after %s", hsm.ErrHung, cfg.StartTimeout))
	defer cancel()
	stop := context.AfterFunc(limited, t.Kill)
	t.info, err = t.greet(&hello{params, cfg.PIN.Reveal()})
	inTime := stop()
	if err == nil && inTime {
		go t.receive()
		return t, nil
	}
	t.dead.Store(true)
	close(t.heard) // there is no receiver
	t.Kill()
	t.link.close(hsm.ErrLinkLost)
	t.wait(closeGrace) // no zombie is left behind, unless the kernel holds the process
	if !inTime {
		err = context.Cause(limited)
	}
	return nil, fmt.Errorf("worker %s: %w", cfg.Name, err)
}

// start starts the process with its end of a socket pair as file descriptor 3.
func start(cfg Config) (*Token, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	said, say, err := os.Pipe()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	defer say.Close()
	cmd := exec.Command(cfg.Argv[0], cfg.Argv[1:]...)
	cmd.Env = append([]string{}, cfg.Env...) // never nil: nil would hand down ours
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = say, say
	cmd.SysProcAttr = childAttributes()

	t := &Token{
		name: cfg.Name, log: cfg.Log, link: newLink(conn), heard: make(chan struct{}), ended: make(chan struct{}),
		sessions: map[uint32]*session{}, pings: map[uint32]chan struct{}{},
	}
	started := make(chan error)
	go t.attend(cmd, said, started)
	if err := <-started; err != nil {
		_ = conn.Close()
		return nil, err
	}
	return t, nil
}

// attend starts the process, waits for its end and reaps it. It keeps its thread to itself the whole time:
// the worker is to die with this process even when it hangs in its library and cannot see its socket
// end, and Linux ties that promise (PR_SET_PDEATHSIG) to the thread that started it, not to the process. A thread
// the runtime were free to end would take a healthy worker along.
func (t *Token) attend(cmd *exec.Cmd, said *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		_ = said.Close()
		started <- err
		return
	}
	t.proc = cmd.Process
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		copyLines(t.log.With("worker", t.name, "pid", cmd.Process.Pid), said)
	}()
	started <- nil
	err := cmd.Wait()
	// What it said and answered last is still to be read. A process that it left behind may hold either
	// open for ever, so this has an end.
	soon := time.Now().Add(200 * time.Millisecond)
	_ = said.SetReadDeadline(soon)
	_ = t.link.conn.SetReadDeadline(soon)
	<-logged
	<-t.heard
	_ = said.Close()
	if !t.closing.Load() {
		t.log.Warn("worker ended", "worker", t.name, "pid", cmd.Process.Pid, "status", status(err))
	}
	close(t.ended)
}

func status(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// greet sends the hello and reads what the token is.
func (t *Token) greet(h *hello) (hsm.Info, error) {
	var frame []byte
	err := send(t.link, h, false)
	if err == nil {
		frame, err = t.link.receive()
	}
	if err != nil {
		return hsm.Info{}, fmt.Errorf("%w before its token was open; what it said last is in the log", hsm.ErrLinkLost)
	}
	return parseInfo(frame)
}
