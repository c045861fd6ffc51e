package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const signBody = `{"message":"aGVsbG8=","hash":"sha2-256"}`

// sign asks for one signature and returns the status.
func (r *running) sign() (int, error) {
	res, b, err := r.send(http.MethodPost, "/api/v1/keys/demo-sign/sign", signBody)
	if err != nil {
		return 0, err
	}
	if res.StatusCode == 200 && !strings.Contains(string(b), `"signature"`) {
		return 0, fmt.Errorf("200 without a signature: %s", b)
	}
	return res.StatusCode, nil
}

// A worker that dies under load costs no request, and its successor serves.
func TestAKilledWorkerCostsNoRequest(t *testing.T) {
	t.Parallel() // it waits more than it works
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		r := startDev(t, kind, newDevDir(t, kind))
		l := startLoad(4, r.sign)
		for _, name := range []string{"m1", "m2"} {
			target := l.soFar(200) + 100
			r.within(30*time.Second, "under load", func() bool { return l.soFar(200) >= target })
			old := r.pid(name)
			kill(t, old)
			killed := time.Now()
			r.within(30*time.Second, "complete again", func() bool {
				m := r.member("default", name)
				return m["state"] == "active" && m["pid"] != float64(old)
			})
			t.Logf("%s was killed and is active again after %s", name, time.Since(killed).Round(10*time.Millisecond))
			if got := r.member("default", name)["respawns"]; got != 1.0 {
				t.Errorf("%s: respawns %v, want 1", name, got)
			}
			before := r.member("default", name)["operations"].(float64)
			r.within(30*time.Second, "using the new worker", func() bool { return r.member("default", name)["operations"].(float64) > before })
		}
		status, errs := l.end()
		if len(errs) > 0 || len(status) != 1 || status[200] < 200 {
			t.Errorf("answers %v, errors %v", status, errs)
		}
	})
}

// With no worker left requests fail at once and say when to come back; then everything serves again by itself.
func TestAllWorkersKilledFailFastAndComeBack(t *testing.T) {
	t.Parallel() // it waits more than it works
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	for _, m := range r.info().Members {
		kill(t, m.PID)
	}
	refused := 0
	r.within(30*time.Second, "serving again", func() bool {
		res, b, err := r.send(http.MethodPost, "/api/v1/keys/demo-sign/sign", signBody)
		if err != nil {
			t.Fatal(err)
		}
		switch res.StatusCode {
		case 200:
			return true
		case 503:
			refused++
			if after, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || after < 1 {
				t.Errorf("Retry-After %q", res.Header.Get("Retry-After"))
			}
			if !strings.Contains(string(b), `"kind":"unavailable"`) || !strings.Contains(string(b), `"retry_after":`) {
				t.Errorf("%s", b)
			}
			ready, body, err := r.send(http.MethodGet, "/readyz", "")
			if err == nil && ready.StatusCode != 503 && ready.StatusCode != 200 { // 200 once it is back
				t.Errorf("/readyz: %d %s", ready.StatusCode, body)
			}
		case 502: // the request that was on a worker when it died, with nobody left to take it over
		default:
			t.Errorf("%d %s", res.StatusCode, b)
		}
		return false
	})
	if refused == 0 {
		t.Error("no request was refused: the test shows nothing")
	}
	for _, m := range r.info().Members {
		r.within(30*time.Second, "complete again", func() bool { return r.member("default", m.Name)["state"] == "active" })
	}
}

// SIGTERM takes no new connection, finishes every request that was accepted, and ends well.
func TestSIGTERMFinishesWhatIsRunning(t *testing.T) {
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	addr := strings.TrimPrefix(r.url, "http://")
	// Requests that the server has begun to read when the signal comes: their last byte is sent afterwards.
	const n = 20
	type half struct {
		conn net.Conn
		last string
	}
	var halves []half
	body := signBody
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		text := fmt.Sprintf("POST /api/v1/keys/demo-sign/sign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", r.token, len(body), body)
		if _, err := io.WriteString(c, text[:len(text)-1]); err != nil {
			t.Fatal(err)
		}
		halves = append(halves, half{c, text[len(text)-1:]})
	}
	l := startLoad(8, func() (int, error) {
		var reused bool
		trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodPost, r.url+"/api/v1/keys/demo-sign/sign", strings.NewReader(signBody))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+r.token)
		res, err := r.http.Do(req)
		if err != nil {
			// A connection that the kernel had taken and the server had not is no accepted request.
			if !reused && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)) {
				return 0, nil
			}
			return 0, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode, err
	})
	r.within(30*time.Second, "under load", func() bool { return l.soFar(200) > 200 })
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.within(10*time.Second, "refusing connections", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	for i, h := range halves {
		if _, err := io.WriteString(h.conn, h.last); err != nil {
			t.Errorf("request %d: %v", i, err)
			continue
		}
		_ = h.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		res, err := http.ReadResponse(bufio.NewReader(h.conn), nil)
		if err != nil {
			t.Errorf("request %d, which had been accepted: %v", i, err)
			continue
		}
		if res.StatusCode != 200 {
			t.Errorf("request %d: %s", i, res.Status)
		}
	}
	<-r.ended
	status, errs := l.end()
	if r.err != nil {
		t.Errorf("keyway ended with %v", r.err)
	}
	for s, count := range status {
		if s != 0 && s != 200 && s != 503 {
			t.Errorf("%d answers with status %d", count, s)
		}
	}
	if len(errs) > 0 {
		t.Errorf("%d requests were cut off: %v", len(errs), errs)
	}
	if exists(filepath.Join(r.dir, "dev.json")) {
		t.Error("dev.json is still there")
	}
}

// Whatever ends the parent, no worker stays behind with a logged-in token.
func TestAKilledParentLeavesNoWorker(t *testing.T) {
	kinds(t, func(t *testing.T, kind string) {
		r := startDev(t, kind, newDevDir(t, kind))
		l := startLoad(4, r.sign)
		r.within(30*time.Second, "under load", func() bool { return l.soFar(200) > 20 })
		workers := children(r.cmd.Process.Pid)
		if len(workers) != 4 {
			t.Errorf("%d workers", len(workers))
		}
		kill(t, r.cmd.Process.Pid)
		<-r.ended
		_, _ = l.end()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			left := 0
			for _, pid := range workers {
				if alive(pid) {
					left++
				}
			}
			if left == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d workers outlive their parent", left)
			}
		}
		// And what it left does not keep the next one from starting.
		if err := os.Remove(filepath.Join(r.dir, "dev.json")); err != nil { // it could not do that itself
			t.Error(err)
		}
		startDev(t, kind, r.dir).ok("demo-sign/sign", signBody)
	})
}

// pinTap stands where a PIN file was and counts how often the PIN is read: no login without that.
type pinTap struct {
	path  string
	reads atomic.Int64
	mu    sync.Mutex
	pin   []byte
}

func newPINTap(t *testing.T, path string) *pinTap {
	t.Helper()
	p := &pinTap{path: path}
	var err error
	if p.pin, err = os.ReadFile(path); err == nil {
		if err = os.Remove(path); err == nil {
			err = syscall.Mkfifo(path, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	quit := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			f, err := os.OpenFile(path, os.O_WRONLY, 0) // returns when somebody reads
			select {
			case <-quit:
				return
			default:
			}
			if err != nil {
				return
			}
			p.reads.Add(1)
			p.mu.Lock()
			_, _ = f.Write(p.pin)
			p.mu.Unlock()
			_ = f.Close()
			time.Sleep(20 * time.Millisecond) // the reader must see the end before the next one is served
		}
	}()
	t.Cleanup(func() {
		close(quit)
		if f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil { // wakes the writer
			defer f.Close()
		}
		<-done
	})
	return p
}

func (p *pinTap) set(pin string) (old string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, p.pin = string(p.pin), []byte(pin)
	return old
}

// A wrong PIN is tried exactly once, whatever happens, until a person has set it right and says so.
func TestAWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel() // it waits more than it works
	kinds(t, func(t *testing.T, kind string) {
		t.Parallel()
		dir := newDevDir(t, kind)
		tap := newPINTap(t, filepath.Join(dir, "tokens", "m2", "pin"))
		right := tap.set("a-wrong-pin\n")
		r := startDev(t, kind, dir)
		r.says("member m2 is latched")
		r.says("keyway member latch-clear --pool default m2")
		r.says("member latched: its PIN was refused")
		if n := r.log.count("member latched: its PIN was refused"); n != 1 {
			t.Errorf("%d lines of the latch in the log", n)
		}
		latched := func(r *running) {
			t.Helper()
			m := r.member("default", "m2")
			if reason, _ := m["reason"].(string); m["state"] != "latched" || !strings.Contains(strings.ToUpper(reason), "PIN") {
				t.Errorf("member list says %v", m)
			}
			if strings.Contains(fmt.Sprint(m), "a-wrong-pin") || strings.Contains(r.log.String(), "a-wrong-pin") {
				t.Error("the PIN is told")
			}
		}
		latched(r)
		r.ok("demo-sign/sign", signBody) // the others serve
		if code, _, said := r.order("member", "resume", "m2"); code != exitFailed || !strings.Contains(said, "clear the latch") {
			t.Errorf("resuming a latched member: %d %s", code, said)
		}
		time.Sleep(2 * time.Second) // longer than the pause before a second attempt would be
		if n := tap.reads.Load(); n != 1 {
			t.Errorf("the PIN was read %d times", n)
		}
		r.stop(syscall.SIGTERM)

		r = startDev(t, kind, dir)
		latched(r)
		if n := tap.reads.Load(); n != 1 {
			t.Errorf("after a restart the PIN was read %d times", n)
		}
		// Cleared too early: one attempt more, and latched again.
		if code, _, said := r.order("member", "latch-clear", "m2"); code != exitFailed || !strings.Contains(said, "member m2 is latched") {
			t.Errorf("clearing the latch with the PIN as wrong as before: %d %s", code, said)
		}
		if n := tap.reads.Load(); n != 2 || r.member("default", "m2")["state"] != "latched" {
			t.Errorf("the PIN was read %d times, %v", n, r.member("default", "m2"))
		}
		tap.set(right)
		if m := r.ordered("member", "latch-clear", "m2"); m["state"] != "active" {
			t.Errorf("its latch was cleared: %v", m)
		}
		if n := tap.reads.Load(); n != 3 {
			t.Errorf("the PIN was read %d times, want 3", n)
		}
		r.stop(syscall.SIGTERM)
		r = startDev(t, kind, dir)
		if m := r.member("default", "m2"); m["state"] != "active" {
			t.Errorf("after a restart m2 is %v", m)
		}
	})
}

// A custody token with a wrong PIN keeps keys from being made, and nothing else.
func TestCustodyWithAWrongPIN(t *testing.T) {
	dir := newDevDir(t, onEmbedded)
	tap := newPINTap(t, filepath.Join(dir, "tokens", "custody", "pin"))
	right := tap.set("a-wrong-pin")
	r := startDev(t, onEmbedded, dir)
	r.ok("demo-sign/sign", signBody)
	r.says("serving goes on, making keys does not")
	if code, _, said := r.order("key", "create", "k", "--algorithm", "aes-256"); code != exitFailed || !strings.Contains(said, "unavailable") {
		t.Errorf("making a key: %d %s", code, said)
	}
	if m := r.member("custody", "custody"); m["state"] != "latched" || tap.reads.Load() != 1 {
		t.Errorf("%v, the PIN was read %d times", m, tap.reads.Load())
	}
	tap.set(right)
	if m := r.ordered("member", "latch-clear", "custody", "--pool", "custody"); m["state"] != "active" {
		t.Errorf("its latch was cleared: %v", m)
	}
	if k := r.ordered("key", "create", "k", "--algorithm", "aes-256"); k["primary_version"] != 1.0 {
		t.Errorf("the unfinished key: %v", k)
	}
}
