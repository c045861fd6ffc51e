package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"keyway/hsm"
)

func TestAPanicIsOneRequestsFailureWithAnIncidentID(t *testing.T) {
	g := newGate(t, nil)
	g.crypto.before = func(_ context.Context, op hsm.Op) error {
		if op.Kind == hsm.OpEncrypt {
			var none []byte
			_ = none[len(op.In)] // a fault of the runtime, whose words hold no data
		}
		panic("PANICSECRET")
	}
	for _, a := range []answer{g.key("k-sign", "sign", `{"message":"aGk="}`), g.key("k-wrap", "encrypt", `{"plaintext":"aGk="}`)} {
		g.refused(a, Internal, "")
		if a.body["detail"] != nil || a.body["incident_id"] != a.body["request_id"] || len(a.body) != 6 {
			t.Errorf("more is told than an id: %s", a.raw)
		}
		line := ""
		for _, l := range strings.Split(g.log.String(), "\n") {
			if strings.Contains(l, a.body["incident_id"].(string)) {
				line += l
			}
		}
		if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "gateway.(*Call)") {
			t.Errorf("the log does not have the stack under the incident's id: %q", line)
		}
	}
	if strings.Contains(g.log.String(), "PANICSECRET") {
		t.Error("the log has what was thrown")
	}
	if !strings.Contains(g.log.String(), "index out of range") {
		t.Error("the log does not say which fault of the runtime it was")
	}
	g.crypto.before = nil
	g.ok("k-sign", "sign", `{"message":"aGk="}`)
}

// The deadline is a real one: it ends the wait for a token that hangs, also where nothing looks at fasthttp's context.
func TestATokenThatHangsIsADeadline(t *testing.T) {
	g := newGate(t, func(c *Config) { c.OpTimeout, c.BatchWidth = 50*time.Millisecond, 1 })
	left := make(chan struct{}, 10)
	g.crypto.before = func(ctx context.Context, op hsm.Op) error {
		if string(op.In) == "ok" {
			return nil
		}
		<-ctx.Done()
		left <- struct{}{}
		return ctx.Err()
	}
	g.refused(g.key("k-mac", "mac", `{"message":"aGk="}`), Deadline, "")
	<-left
	r := g.results(`{"operations":[{"op":"mac","key":"k-mac","message":"aGk="},{"op":"mac","key":"k-mac","message":"b2s="}]}`)
	if r[0]["status"] != 504.0 || r[1]["status"] != 200.0 {
		t.Errorf("%v", r)
	}
	g.crypto.before = nil
	g.shelf.mu.Lock()
	g.shelf.hangs = make(chan struct{})
	g.shelf.mu.Unlock()
	g.refused(g.key("k-rsa", "sign", `{"message":"aGk="}`), Deadline, "")
	close(g.shelf.hangs)
}

// spy keeps the slices that pass through connections, not their contents: they are fasthttp's buffers, which stay in use.
type spy struct {
	net.Listener
	mu   sync.Mutex
	seen [][]byte
}

type spyConn struct {
	*net.TCPConn
	s *spy
}

func (s *spy) keep(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, b[:cap(b):cap(b)])
}

func (s *spy) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &spyConn{c.(*net.TCPConn), s}, nil
}

func (c *spyConn) Read(b []byte) (int, error)  { c.s.keep(b); return c.TCPConn.Read(b) }
func (c *spyConn) Write(b []byte) (int, error) { c.s.keep(b); return c.TCPConn.Write(b) }

// After a request nothing of it is left in any buffer that is kept for the next one: fasthttp's for reading, for writing
// and for bodies, and ours.
func TestNothingOfARequestIsLeftInPooledBuffers(t *testing.T) {
	cfg, c, sh, l := config()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, s: s, crypto: c, shelf: sh, log: l, token: appToken, served: make(chan error, 1)}
	look := &spy{}
	calls := map[*Call]bool{}
	handle := s.http.Handler
	s.http.Handler = func(h *fasthttp.RequestCtx) {
		look.keep(h.Request.Body())
		look.keep(h.Request.Header.RawHeaders())
		look.keep(h.Request.Header.Peek("Authorization"))
		handle(h)
		c := h.Conn().(interface{ base() *conn }).base().call.Load()
		look.mu.Lock()
		calls[c] = true
		look.mu.Unlock()
	}
	c.before = func(_ context.Context, op hsm.Op) error {
		look.keep(op.In)
		look.keep(op.Mech.AAD)
		return nil
	}
	if look.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	g.url = "http://" + look.Addr().String()
	go func() { g.served <- s.Serve(look) }()
	defer func() {
		_ = s.Shutdown(context.Background())
		<-g.served
	}()
	small, large := "MARKERmarkerMARKERmarkerMARKER", strings.Repeat("MARKERmarkerMARKERmarkerMARKER", 500)
	for _, closes := range []bool{true, false} {
		g.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: closes}}
		for _, m := range []string{small, large} {
			w := g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"aad":%q}`, b64(m), b64(small))["wrapped"]
			g.ok("k-wrap", "unwrap", `{"wrapped":%q,"aad":%q}`, w, b64(small))
			e := g.ok("k-wrap", "encrypt", `{"plaintext":"%s"}`, strings.ReplaceAll(b64(m), "a", `\u0061`))["ciphertext"]
			g.ok("k-wrap", "decrypt", `{"ciphertext":%q}`, e)
			g.results(fmt.Sprintf(`{"operations":[{"op":"unwrap","key":"k-wrap","wrapped":%q,"aad":%q},{"op":"encrypt","key":"k-wrap","plaintext":%q}]}`, w, b64(small), b64(m)))
			g.refused(g.key("k-wrap", "wrap", fmt.Sprintf(`{"plaintext_key":%q,"bogus":1}`, b64(m))), Malformed, "bogus")
		}
		g.client.CloseIdleConnections()
	}
	// The last answers are wiped when the server reads on or closes.
	waitFor(t, "connections to close", func() bool { s.connsMu.Lock(); defer s.connsMu.Unlock(); return len(s.conns) == 0 })
	look.mu.Lock()
	defer look.mu.Unlock()
	if len(look.seen) < 100 || len(calls) == 0 {
		t.Fatalf("only %d buffers and %d calls were looked at", len(look.seen), len(calls))
	}
	for c := range calls {
		look.seen = append(look.seen, c.out[:cap(c.out)], c.aad[:cap(c.aad)], c.req.scratch[:cap(c.req.scratch)])
	}
	for _, b := range look.seen {
		for what, m := range map[string]string{"plaintext": small, "plaintext in base64": b64(small)[:24], "token": appToken} {
			if bytes.Contains(b, []byte(m)) {
				t.Fatalf("a buffer of %d bytes still holds the %s", len(b), what)
			}
		}
	}
	runtime.KeepAlive(calls)
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 20s for %s", what)
		}
	}
}

func TestShutdownLetsRequestsFinishAndTakesNoNewOnes(t *testing.T) {
	g := newGate(t, nil)
	begun, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	g.crypto.before = func(context.Context, hsm.Op) error {
		once.Do(func() { close(begun) })
		<-goOn
		return nil
	}
	idle := g.dial()
	if _, err := io.WriteString(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := idle.Read(make([]byte, 4096)); n == 0 || err != nil {
		t.Fatal(n, err)
	}
	got := make(chan answer, 1)
	go func() { a, _ := g.try("POST", "/api/v1/keys/k-mac/mac", `{"message":"aGk="}`); got <- a }()
	<-begun
	down := make(chan error, 1)
	go func() { down <- g.s.Shutdown(context.Background()) }()
	if n, err := idle.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection: %d bytes, %v, want its end", n, err)
	}
	waitFor(t, "the port to be closed", func() bool {
		c, err := net.Dial("tcp", g.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned %v with a request under way", err)
	default:
	}
	close(goOn)
	if a := <-got; a.status != 200 || !a.closes {
		t.Errorf("the request under way: %d %s, closes %v", a.status, a.raw, a.closes)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestShutdownThatTakesTooLongCutsOff(t *testing.T) {
	g := newGate(t, nil)
	begun := make(chan struct{}, 2)
	hang := make(chan struct{})
	g.crypto.before = func(ctx context.Context, op hsm.Op) error {
		begun <- struct{}{}
		if string(op.In) == "deaf" { // a Crypto that looks at no context, which a pool is not
			<-hang
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	type result struct {
		a   answer
		err error
	}
	got, deaf := make(chan result, 1), make(chan result, 1)
	go func() { a, err := g.try("POST", "/api/v1/keys/k-mac/mac", `{"message":"aGk="}`); got <- result{a, err} }()
	<-begun
	go func() {
		a, err := g.try("POST", "/api/v1/keys/k-mac/mac", fmt.Sprintf(`{"message":%q}`, b64("deaf")))
		deaf <- result{a, err}
	}()
	<-begun
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if r := <-got; r.err != nil || r.a.status != 503 || r.a.body["kind"] != "unavailable" {
		t.Errorf("a request that was cancelled: %+v", r)
	}
	var late net.Error
	if r := <-deaf; r.err == nil || errors.As(r.err, &late) && late.Timeout() {
		t.Errorf("a request that cannot be cancelled: %v %+v, want its connection cut off", r.err, r.a)
	}
	close(hang)
	waitFor(t, "connections to close", func() bool { g.s.connsMu.Lock(); defer g.s.connsMu.Unlock(); return len(g.s.conns) == 0 })
}

// A server that is shut down as it starts does not serve on: whoever waits for Serve would wait for ever.
func TestServeAfterShutdownReturns(t *testing.T) {
	cfg, _, _, _ := config()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve goes on")
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is left open: %v", err)
	}
}

func TestNothingRunsOnAfterShutdown(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("serve", func(t *testing.T) {
		g := newGate(t, nil)
		for range 10 {
			g.ok("k-sign", "sign", `{"message":"aGk="}`)
		}
	})
	// fasthttp's cleaner of idle workers sleeps up to ten seconds, and its clock runs for ever.
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
}
