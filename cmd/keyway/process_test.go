package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// running is a keyway that serves, in a process of its own.
type running struct {
	t     testing.TB
	cmd   *exec.Cmd
	dir   string // of keyway dev
	url   string // of the gateway
	admin string
	token string // of the client
	log   *logBuffer
	out   *logBuffer
	ended chan struct{} // closed when the process has ended; err is set then
	err   error
	http  *http.Client
}

// logBuffer keeps what a process writes.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// count tells how often s was written.
func (l *logBuffer) count(s string) int { return strings.Count(l.String(), s) }

// start runs the program in the background. When the test ends, so does it.
func start(t testing.TB, env []string, args ...string) *running {
	t.Helper()
	r := &running{t: t, log: &logBuffer{}, out: &logBuffer{}, ended: make(chan struct{})}
	r.http = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	r.cmd = exec.Command(program, args...)
	r.cmd.Env = append(os.Environ(), env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.log
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		r.http.CloseIdleConnections()
		_ = r.cmd.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("keyway %s:\n%s", strings.Join(args, " "), r.log)
		}
	})
	return r
}

// startDev runs keyway dev in dir and waits until it is ready.
func startDev(t testing.TB, kind, dir string, flags ...string) *running {
	t.Helper()
	args := append([]string{"dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, flagsOf(kind)...)
	r := start(t, nil, append(args, flags...)...)
	r.dir = dir
	r.within(time.Minute, "ready", func() bool { return exists(filepath.Join(dir, "dev.json")) })
	info := r.info()
	r.url, r.admin, r.token = info.URL, info.AdminURL, info.ClientToken
	return r
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// says waits until the log holds a text. What a process wrote before something else was seen of it may come a moment later.
func (r *running) says(text string) {
	r.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(r.log.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Errorf("the log does not say %q:\n%s", text, r.log)
			return
		}
	}
}

// within waits until ok, and fails the test when that takes longer than d or the process ends.
func (r *running) within(d time.Duration, what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
		select {
		case <-r.ended:
			r.t.Fatalf("keyway ended (%v) before it was %s:\n%s", r.err, what, r.log)
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("after %s keyway is not %s:\n%s", d, what, r.log)
		}
	}
}

// info reads dev.json.
func (r *running) info() (info devInfo) {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "dev.json"))
	if err == nil {
		err = json.Unmarshal(b, &info)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

// pid returns the process id of a member's worker, after dev.json.
func (r *running) pid(member string) int {
	r.t.Helper()
	for _, m := range r.info().Members {
		if m.Name == member {
			return m.PID
		}
	}
	r.t.Fatalf("dev.json has no member %s", member)
	return 0
}

// stop ends the process with a signal, and waits for it; it must end well.
func (r *running) stop(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		r.t.Fatalf("keyway does not end:\n%s", r.log)
	}
	if r.err != nil {
		r.t.Errorf("keyway ended with %v:\n%s", r.err, r.log)
	}
}

// send sends a request to the gateway. err is that of the connection.
func (r *running) send(method, path, body string) (res *http.Response, out []byte, err error) {
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if res, err = r.http.Do(req); err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	out, err = io.ReadAll(res.Body)
	return res, out, err
}

// post calls an operation of a key and returns the status and the answer.
func (r *running) post(call, body string) (int, map[string]any) {
	r.t.Helper()
	res, b, err := r.send(http.MethodPost, "/api/v1/keys/"+call, body)
	if err != nil {
		r.t.Fatalf("%s: %v", call, err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		r.t.Fatalf("%s: %s %q: %v", call, res.Status, b, err)
	}
	return res.StatusCode, out
}

// ok is post for a call that must succeed.
func (r *running) ok(call, body string) map[string]any {
	r.t.Helper()
	status, out := r.post(call, body)
	if status != 200 {
		r.t.Fatalf("%s %s: %d %v", call, body, status, out)
	}
	return out
}

// order runs one of the operators' commands against this dev, with JSON as the answer.
func (r *running) order(args ...string) (code int, answer map[string]any, said string) {
	r.t.Helper()
	c := exec.Command(program, append(args, "--dir", r.dir, "--output", "json")...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		r.t.Fatal(err)
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
			r.t.Fatalf("keyway %v: %q: %v", args, out.String(), err)
		}
	}
	return c.ProcessState.ExitCode(), answer, errs.String()
}

// ordered is order for a command that must succeed.
func (r *running) ordered(args ...string) map[string]any {
	r.t.Helper()
	code, answer, said := r.order(args...)
	if code != 0 {
		r.t.Fatalf("keyway %v: %d %s", args, code, said)
	}
	return answer
}

// member returns what keyway member list says about a member of a pool.
func (r *running) member(pool, name string) map[string]any {
	r.t.Helper()
	for _, p := range r.ordered("member", "list", "--pool", pool)["pools"].([]any) {
		for _, m := range p.(map[string]any)["members"].([]any) {
			if m := m.(map[string]any); m["name"] == name {
				return m
			}
		}
	}
	r.t.Fatalf("pool %s has no member %s", pool, name)
	return nil
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z'
}

// children returns the process ids of the workers of a process.
func children(pid int) (out []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		var child, parent int
		var state string
		_, rest, _ := bytes.Cut(b, []byte(") "))
		if _, err := fmt.Sscan(string(rest), &state, &parent); err != nil || parent != pid || state == "Z" {
			continue
		}
		if _, err := fmt.Sscan(string(b), &child); err == nil {
			out = append(out, child)
		}
	}
	return out
}

// kill ends a process of ours at once.
func kill(t testing.TB, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process id: %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func unb64(t testing.TB, v any) []byte {
	t.Helper()
	s, _ := v.(string)
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || s == "" {
		t.Fatalf("%v is no base64", v)
	}
	return b
}

// load keeps sending requests from several clients at once until it is stopped, and counts what came of them.
type load struct {
	mu     sync.Mutex
	status map[int]int
	errs   []error
	stop   chan struct{}
	wg     sync.WaitGroup
}

// startLoad starts n clients, each of which calls f again and again.
func startLoad(n int, f func() (status int, err error)) *load {
	l := &load{status: map[int]int{}, stop: make(chan struct{})}
	for range n {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				s, err := f()
				l.mu.Lock()
				if err != nil {
					l.errs = append(l.errs, err)
				} else {
					l.status[s]++
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// end stops the clients and returns how many requests had which status, and the connections' errors.
func (l *load) end() (map[int]int, []error) {
	close(l.stop)
	l.wg.Wait()
	return l.status, l.errs
}

// soFar is how many requests were answered with a status.
func (l *load) soFar(status int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status[status]
}
