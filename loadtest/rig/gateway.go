//go:build linux

package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"keyway/lifecycle/adminapi"
	"keyway/pool"
)

// Gateway is a running keyway serve and the operators' access to it.
type Gateway struct {
	// Listen and Admin are its addresses, host:port; [Config.Write] chooses them. AdminToken is an operator's.
	Listen, Admin, AdminToken string
	// HTTP is the operators' client.
	HTTP *http.Client

	cmd     *exec.Cmd
	log     *os.File
	logFile string
	ended   chan struct{}
	status  error // set before ended is closed
}

// URL is where clients ask.
func (g *Gateway) URL() string { return "http://" + g.Listen }

// Start starts keyway serve with a configuration. Its log is added to logFile. A gateway that was stopped can be started again.
func (g *Gateway) Start(keyway, config, logFile string) (err error) {
	g.logFile, g.ended, g.status = logFile, make(chan struct{}), nil
	if g.log, err = os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	g.cmd = exec.Command(keyway, "serve", "--config", config)
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s (make build makes it): %w", keyway, err)
	}
	go func() {
		g.status = g.cmd.Wait()
		close(g.ended)
	}()
	return nil
}

// PID is the gateway's process.
func (g *Gateway) PID() int { return g.cmd.Process.Pid }

// Until repeats f until it returns nil, for at most d.
func (g *Gateway) Until(ctx context.Context, d time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-g.ended:
			return fmt.Errorf("keyway ended (%w) before it %s; its log is %s", g.status, what, g.Tail())
		case <-ctx.Done():
			return fmt.Errorf("keyway not %q in time: %w (%w)", what, err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Sleep waits and reports whether it did so to the end, which is not so when ctx ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Stat asks for the pool's state.
func (g *Gateway) Stat(ctx context.Context) (pool.Stat, error) {
	var list adminapi.MemberList
	if err := g.Order(ctx, http.MethodGet, "/admin/v1/members?pool="+Pool, nil, &list); err != nil {
		return pool.Stat{}, err
	}
	if len(list.Pools) != 1 {
		return pool.Stat{}, fmt.Errorf("asked for one pool and heard of %d", len(list.Pools))
	}
	return list.Pools[0], nil
}

// Member asks for one member's state; nil when it is not there.
func (g *Gateway) Member(ctx context.Context, t *Token) (*pool.MemberStat, error) {
	s, err := g.Stat(ctx)
	if err != nil {
		return nil, err
	}
	for i := range s.Members {
		if s.Members[i].Name == t.Record.Name {
			return &s.Members[i], nil
		}
	}
	return nil, nil
}

// Order sends an operator's command.
func (g *Gateway) Order(ctx context.Context, method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.Admin+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.AdminToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := g.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s %s", method, path, res.Status, bytes.TrimSpace(b))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// Stop interrupts keyway and waits for it. It is safe to call twice.
func (g *Gateway) Stop() error { return g.end(os.Interrupt) }

// Terminate is Stop by SIGTERM, as a service manager does it.
func (g *Gateway) Terminate() error { return g.end(syscall.SIGTERM) }

func (g *Gateway) end(s os.Signal) error {
	defer g.log.Close()
	_ = g.cmd.Process.Signal(s)
	select {
	case <-g.ended:
	case <-time.After(45 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
		return fmt.Errorf("keyway did not end within 45 s and was killed; its log: %s", g.Tail())
	}
	if g.status != nil {
		return fmt.Errorf("keyway ended with %w; its log: %s", g.status, g.Tail())
	}
	return nil
}

// Dump ends keyway by SIGQUIT, for which Go's runtime writes every goroutine's stack into the log.
func (g *Gateway) Dump() error {
	err := g.cmd.Process.Signal(syscall.SIGQUIT)
	<-g.ended
	g.status = nil // it was asked for
	return err
}

// Tail is the end of keyway's log.
func (g *Gateway) Tail() []byte {
	b, _ := os.ReadFile(g.logFile) // where there is none, there is none
	return bytes.TrimSpace(b[max(0, len(b)-4000):])
}
