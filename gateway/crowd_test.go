package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// files makes sure that the process may open n more files, or skips the test and says why.
func files(t *testing.T, n uint64) {
	t.Helper()
	n += 500 // of the test binary and the other tests
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if old.Cur >= n {
		return
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, old.Max)}); err != nil {
		t.Skipf("this test opens %d files, and the limit is %d: %v (raise the hard limit of RLIMIT_NOFILE)", n, old.Max, err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) })
}

// crowd opens n connections, a few at a time.
func (g *gate) crowd(n int) []net.Conn {
	g.t.Helper()
	all := make([]net.Conn, n)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				c, err := net.Dial("tcp", g.addr)
				if err != nil {
					g.t.Errorf("connection %d: %v", i, err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(60 * time.Second))
				all[i] = c
			}
		})
	}
	wg.Wait()
	g.t.Cleanup(func() {
		for _, c := range all {
			if c != nil {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			}
		}
	})
	if g.t.Failed() {
		g.t.FailNow()
	}
	return all
}

// crowdOf, in the environment of a test binary, makes it a crowd of clients of the address it names instead.
const crowdOf = "GATEWAY_TEST_CROWD_OF"

const crowdSize = 10_000

func TestMain(m *testing.M) {
	if addr := os.Getenv(crowdOf); addr != "" {
		if err := beCrowd(addr); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beCrowd opens connections, makes a request on each and keeps them until its input ends; then it tries some again.
func beCrowd(addr string) error {
	all := make([]net.Conn, crowdSize)
	ask := func(i int) error {
		b := make([]byte, 512)
		if _, err := io.WriteString(all[i], "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return err
		}
		k, err := all[i].Read(b)
		if err != nil || !strings.HasPrefix(string(b[:k]), "HTTP/1.1 200") {
			return fmt.Errorf("connection %d: %q %v", i, b[:k], err)
		}
		return nil
	}
	for i := range all {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		all[i] = c
		if err := ask(i); err != nil {
			return err
		}
	}
	fmt.Println("here")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, i := range []int{0, crowdSize / 2, crowdSize - 1} {
		if err := ask(i); err != nil {
			return err
		}
	}
	fmt.Println("still here")
	return nil
}

// Ten thousand clients that keep their connections and say nothing leave the others served. They are
// a process of their own, since each connection has two ends.
func TestTenThousandIdleConnectionsLeaveOthersServed(t *testing.T) {
	files(t, crowdSize)
	g := newGate(t, nil)
	crowd := exec.Command(os.Args[0])
	crowd.Env = append(os.Environ(), crowdOf+"="+g.addr)
	in, err := crowd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := crowd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = crowd.Wait() }()
	defer in.Close()
	said := bufio.NewReader(out)
	if line, _ := said.ReadString('\n'); line != "here\n" {
		t.Fatalf("the crowd says %q", line)
	}
	for range 50 {
		g.ok("k-sign", "sign", `{"message":"aGk="}`)
	}
	if c := g.s.http.GetOpenConnectionsCount(); c < crowdSize {
		t.Errorf("%d connections are open, want the %d idle ones", c, crowdSize)
	}
	_ = in.Close()
	if line, _ := said.ReadString('\n'); line != "still here\n" {
		t.Errorf("later the crowd says %q", line)
	}
}

// Clients that drip their headers or bodies are served nothing, are ended by the read timeout, however busy they look, and
// leave the others served meanwhile.
func TestSlowClientsAreEndedAndLeaveOthersServed(t *testing.T) {
	g := newGate(t, func(c *Config) { c.ReadTimeout = time.Second })
	all := g.crowd(300)
	end := make(chan struct{})
	var dripping sync.WaitGroup
	for i, c := range all {
		head := signLine + "Host: x\r\nAuthorization: Bearer " + appToken + "\r\n"
		switch i % 3 {
		case 0: // headers
		case 1: // a body
			head += "Content-Length: 1000\r\n\r\n{"
		case 2: // chunks
			head += "Transfer-Encoding: chunked\r\n\r\n"
		}
		dripping.Go(func() {
			if _, err := io.WriteString(c, head); err != nil {
				return
			}
			for drip := "X"; ; drip = "-" {
				select {
				case <-end:
					return
				case <-time.After(20 * time.Millisecond):
				}
				if i%3 == 2 {
					drip = "1\r\n{\r\n"
				}
				if _, err := io.WriteString(c, drip); err != nil {
					return
				}
			}
		})
	}
	for range 50 {
		g.ok("k-sign", "sign", `{"message":"aGk="}`)
	}
	for i, c := range all { // each ends; what it is told, if it listens, is a problem
		b, err := io.ReadAll(c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("connection %d is not ended: %v", i, err)
		}
		if len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 400") {
			t.Fatalf("connection %d: %q", i, b)
		}
	}
	close(end)
	dripping.Wait()
	if n := g.crypto.ops.Load(); n != 50 {
		t.Errorf("%d operations, want the 50 of the others", n)
	}
}

// A client that does not read its answers is ended by the write timeout and blocks nobody.
func TestClientsThatDoNotReadAreEnded(t *testing.T) {
	g := newGate(t, func(c *Config) { c.WriteTimeout = 300 * time.Millisecond })
	c := g.dial()
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	req := []byte(strings.Repeat("GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n", 100))
	for range 20 {
		_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(req); err != nil {
			break
		}
	}
	waitFor(t, "the connection to end", func() bool { g.s.connsMu.Lock(); defer g.s.connsMu.Unlock(); return len(g.s.conns) == 0 })
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
}

// Who connects and says nothing is not answered: an answer that nobody asked for could be taken for the one to a request under way.
func TestSilentConnectionsEndInSilence(t *testing.T) {
	g := newGate(t, quick)
	b, err := io.ReadAll(g.dial())
	if err != nil || len(b) != 0 {
		t.Errorf("%q %v", b, err)
	}
	c := g.dial()
	_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err = io.ReadAll(c); err != nil || fmt.Sprint(statuses(t, string(b))) != "[200]" {
		t.Errorf("kept alive and then silent: %q %v", b, err)
	}
}

func TestConnectionsTooManyAreTurnedAway(t *testing.T) {
	g := newGate(t, func(c *Config) { c.MaxConns = 20 })
	all := g.crowd(20)
	waitFor(t, "connections", func() bool { g.s.connsMu.Lock(); defer g.s.connsMu.Unlock(); return len(g.s.conns) == 20 })
	got := g.exchange("")
	if !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "Retry-After: 1\r\n") || !strings.Contains(got, `"kind":"overloaded"`) {
		t.Errorf("connection 21: %q", got)
	}
	_ = all[0].Close()
	waitFor(t, "room", func() bool { g.s.connsMu.Lock(); defer g.s.connsMu.Unlock(); return len(g.s.conns) < 20 })
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
}

// failing is a listener whose Accept fails for a while, as it does when there are no file descriptors left.
type failing struct {
	net.Listener
	mu   sync.Mutex
	errs []error
}

func (f *failing) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return f.Listener.Accept()
}

func TestTheServerOutlivesALackOfFileDescriptors(t *testing.T) {
	g := newGate(t, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- g.s.Serve(&failing{Listener: ln, errs: []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.ENOBUFS}})
	}()
	g.addr, g.url = ln.Addr().String(), "http://"+ln.Addr().String()
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
	select {
	case err := <-served:
		t.Errorf("Serve ended: %v", err)
	default:
	}
	if !strings.Contains(g.log.String(), "too many open files") {
		t.Error("the log does not tell")
	}
}
