//go:build linux

package worker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyway/hsm"
)

// childrenOf returns the processes, zombies included, whose parent is pid.
func childrenOf(tb testing.TB, pid int) []string {
	tb.Helper()
	var out []string
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			tb.Fatal(err)
		}
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}

// dumpable returns the process's own flag.
func dumpable() string {
	v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err.Error()
	}
	return strconv.Itoa(v)
}

// settled waits for the number of goroutines to come back to what it was; the test's deadline ends a wait in vain.
func settled(was int) {
	for runtime.NumGoroutine() > was {
		time.Sleep(time.Millisecond)
	}
}

// TestKill ends a worker in the middle of many calls, in every way that a process ends.
func TestKill(t *testing.T) {
	for name, end := range map[string]func(*Token, hsm.Session){
		"Kill":    func(w *Token, _ hsm.Session) { w.Kill() },
		"kill -9": func(w *Token, _ hsm.Session) { _ = syscall.Kill(w.PID(), syscall.SIGKILL) },
		"exit": func(_ *Token, s hsm.Session) {
			op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte("exit")}}
			if err := s.Do(&op); err != hsm.ErrLinkLost || op.Err != err {
				t.Errorf("the call that ended it: %v, %v", err, op.Err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			was := runtime.NumGoroutine()
			w, err := Spawn(t.Context(), config(t, "echo", echoParams{}))
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			begun := make(chan struct{}, 64)
			sessions := make([]hsm.Session, 64)
			for i := range sessions {
				s := openSession(t, w)
				sessions[i] = s
				what := []byte("hang")
				if i%2 == 0 {
					what = []byte("echo")
				}
				wg.Go(func() {
					begun <- struct{}{}
					for {
						op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: what}, In: make([]byte, 100*i)}
						if err := s.Do(&op); err != nil {
							if err != hsm.ErrLinkLost || op.Err != err {
								t.Errorf("Do: %v, %v", err, op.Err)
							}
							return
						}
					}
				})
			}
			last := openSession(t, w)
			for range sessions {
				<-begun
			}
			end(w, last)
			wg.Wait()
			<-w.Done()
			for _, s := range sessions {
				op := hsm.Op{Kind: hsm.OpSign, In: []byte("x")}
				if err := s.Do(&op); err != hsm.ErrLinkLost {
					t.Errorf("Do after the end: %v", err)
				}
				if _, err := s.Find(hsm.ClassSecret, nil); err != hsm.ErrLinkLost {
					t.Errorf("Find after the end: %v", err)
				}
				if err := s.Close(); err != nil {
					t.Errorf("Close after the end: %v", err)
				}
			}
			if _, err := w.OpenSession(t.Context()); err != hsm.ErrLinkLost {
				t.Errorf("OpenSession after the end: %v", err)
			}
			if err := w.Ping(t.Context()); err != hsm.ErrLinkLost {
				t.Errorf("Ping after the end: %v", err)
			}
			w.Kill()
			if err := w.Close(); err != nil {
				t.Error(err)
			}
			if children := childrenOf(t, os.Getpid()); len(children) != 0 {
				t.Errorf("processes left behind: %v", children)
			}
			settled(was)
		})
	}
}

// TestCloseHung: a worker that hangs in its library answers pings, and its Close ends.
func TestCloseHung(t *testing.T) {
	was := runtime.NumGoroutine()
	w, err := Spawn(t.Context(), config(t, "echo", echoParams{}))
	if err != nil {
		t.Fatal(err)
	}
	s := openSession(t, w)
	lost := make(chan error)
	go func() {
		op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte("hang")}}
		lost <- s.Do(&op)
	}()
	if err := w.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-lost; !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("the hanging call: %v", err)
	}
	settled(was)
}

// TestHardened looks at what the system says about a worker.
func TestHardened(t *testing.T) {
	t.Setenv("KEYWAY_PARENT_SECRET", "parent's own")
	c := config(t, "echo", echoParams{Label: "pin"}, "VENDOR=1")
	const pin = "a-PIN-to-look-for"
	c.PIN = hsm.NewPIN([]byte(pin))
	w := spawn(t, c)
	if got := w.Info().Label; got != pinProof([]byte(pin)) {
		t.Fatal("the PIN did not arrive")
	}
	proc := fmt.Sprintf("/proc/%d/", w.PID())
	for _, name := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile(proc + name)
		if err != nil && !(name == "environ" && os.IsPermission(err)) {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(pin)) {
			t.Errorf("the PIN is in %s", name)
		}
		if bytes.Contains(b, []byte("KEYWAY_PARENT_SECRET")) || bytes.Contains(b, []byte("PATH=")) {
			t.Errorf("the worker inherited an environment: %q", b)
		}
		if name == "environ" && err == nil && !bytes.Contains(b, []byte("VENDOR=1")) {
			t.Errorf("the worker's environment is %q", b)
		}
	}
	// Nobody but the process itself can ask for its flag.
	op := hsm.Op{Kind: hsm.OpSign, Mech: hsm.Mechanism{AAD: []byte("dumpable")}}
	if err := openSession(t, w).Do(&op); err != nil || op.Err != nil || string(op.Out) != "0" {
		t.Errorf("dumpable is %q, %v, %v", op.Out, err, op.Err)
	}
	var core unix.Rlimit
	if err := unix.Prlimit(w.PID(), unix.RLIMIT_CORE, nil, &core); err != nil && !errors.Is(err, unix.EPERM) {
		t.Error(err)
	} else if core.Cur != 0 || core.Max != 0 {
		t.Errorf("core files of up to %d bytes", core.Max)
	}
	if group, err := unix.Getpgid(w.PID()); err != nil || group != w.PID() {
		t.Errorf("process group %d, %v; want its own, %d", group, err, w.PID())
	}
	// The terminal's and the service manager's signals do not end it.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		if err := syscall.Kill(w.PID(), sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Ping(t.Context()); err != nil {
		t.Errorf("after the signals of a terminal: %v", err)
	}
	// The only socket to its parent is a nameless one.
	fds, err := os.ReadDir(proc + "fd")
	if err != nil && !os.IsPermission(err) {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		if to, _ := os.Readlink(proc + "fd/" + fd.Name()); strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	if err == nil && sockets != 1 {
		t.Errorf("%d sockets, want 1", sockets)
	}
}
