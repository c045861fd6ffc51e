// Package pgtest runs real PostgreSQL servers for tests: each in a temporary directory, on a free port of loopback and on a Unix
// socket.
package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// User and Password are what every server knows its one ordinary role by. Over TCP the password is asked for, by SCRAM.
const (
	User     = "keyway"
	Password = "correct horse battery staple"
)

// startTime bounds how long a server may take to start, on a busy machine.
const startTime = time.Minute

// Server is a PostgreSQL server of the test's own.
type Server struct {
	Port  int
	dir   string
	bin   string
	fsync string
	as    *syscall.Credential // nil: this user
	mu    sync.Mutex
	cmd   *exec.Cmd
	done  chan struct{}
	n     atomic.Int64
}

var shared struct {
	sync.Mutex
	s   *Server
	err error
}

// Shared returns the server that the tests of this process share, starting it with the first. It does not sync to the disk, so stores on it
// are opened as unsafe. Whoever uses it calls Stop in TestMain.
// Where PostgreSQL is not installed the test is skipped; REQUIRE_POSTGRES=1 makes that a failure.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.s == nil && shared.err == nil {
		shared.s, shared.err = start("off")
	}
	return ready(t, shared.s, shared.err)
}

// Stop ends the shared server, if there is one.
func Stop() {
	shared.Lock()
	defer shared.Unlock()
	if shared.s != nil {
		shared.s.close()
		shared.s = nil
	}
}

// New returns a server for one test, which may kill it. It syncs as servers do in earnest.
func New(t testing.TB) *Server {
	t.Helper()
	s, err := start("on")
	if err == nil {
		t.Cleanup(s.close)
	}
	return ready(t, s, err)
}

// errAbsent: PostgreSQL is not installed here.
var errAbsent = errors.New("there is no PostgreSQL server here: apt-get install postgresql")

func ready(t testing.TB, s *Server, err error) *Server {
	t.Helper()
	if errors.Is(err, errAbsent) && os.Getenv("REQUIRE_POSTGRES") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// binaries finds the directory of initdb and postgres: of the newest version, where there are several.
func binaries() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), "postgres")); err == nil {
				return filepath.Dir(p), nil
			}
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return number(a) - number(b) })
	if len(dirs) == 0 {
		return "", errAbsent
	}
	return dirs[len(dirs)-1], nil
}

func number(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// start makes and starts a server.
func start(fsync string) (s *Server, err error) {
	s = &Server{fsync: fsync}
	if s.bin, err = binaries(); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 { // the server refuses to be root
		if s.as, err = nobody(); err != nil {
			return nil, err
		}
	}
	if s.dir, err = os.MkdirTemp("", "keyway-pg-"); err != nil {
		return nil, err
	}
	if err = s.make(); err == nil {
		err = s.Start()
	}
	if err == nil {
		err = s.sql("postgres", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", User, Password))
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("a PostgreSQL server for tests: %w", err)
	}
	return s, nil
}

func nobody() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody")
}

// make makes the cluster. Its language sorts names otherwise than by their bytes, as many servers' does.
func (s *Server) make() error {
	if s.as != nil {
		if err := os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid)); err != nil {
			return err
		}
	}
	data := filepath.Join(s.dir, "data")
	args := []string{"-D", data, "-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "-E", "UTF8", "--no-sync", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US"}
	if out, err := s.command(filepath.Join(s.bin, "initdb"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = s.dir
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + s.dir}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true}
	return c
}

// Start starts the server again after Kill. What is left of a killed one may hold its memory a moment longer.
func (s *Server) Start() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 50 {
		if err = s.launch(); err == nil || !strings.Contains(err.Error(), "still in use") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// launch starts the server and waits until it answers. The caller holds mu.
func (s *Server) launch() error {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c := s.command(filepath.Join(s.bin, "postgres"), "-D", filepath.Join(s.dir, "data"), "-p", strconv.Itoa(s.Port), "-k", s.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync="+s.fsync, "-c", "shared_buffers=16MB", "-c", "max_connections=100", "-c", "max_wal_size=256MB")
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr.Pdeathsig = syscall.SIGQUIT // a test that is killed leaves no server behind
	if err := c.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(done)
	}()
	s.cmd, s.done = c, done
	for deadline := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		if err = s.sql("postgres", "SELECT 1"); err == nil {
			return nil
		}
		select {
		case <-done:
			s.cmd = nil
			all := strings.Split(s.Log(), "\n")
			return fmt.Errorf("the server ended: %s", strings.Join(all[max(0, len(all)-3):], "; "))
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server does not answer: %w", err)
		}
	}
}

// Kill ends the server as a crash does, with everything that it has not written lost, and waits until it is gone. Start starts it again.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	s.killAll()
	<-s.done
	s.cmd = nil
}

// killAll kills the server and then its children, each of which is in a group of its own. The caller holds mu.
func (s *Server) killAll() {
	parent := s.cmd.Process.Pid
	var children []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		var state string
		var of int
		_, rest, _ := bytes.Cut(b, []byte(") "))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if _, scan := fmt.Sscan(string(rest), &state, &of); scan == nil && err == nil && of == parent {
			children = append(children, pid)
		}
	}
	for _, pid := range append([]int{parent}, children...) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func (s *Server) close() {
	s.mu.Lock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // at once, children too
		select {
		case <-s.done:
		case <-time.After(10 * time.Second):
			s.killAll()
			<-s.done
		}
		s.cmd = nil
	}
	s.mu.Unlock()
	_ = os.RemoveAll(s.dir)
}
