//go:build linux

package main

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

// gateway is a running keyway serve and the operators' access to it.
type gateway struct {
	name       string
	url, admin string
	adminToken string
	http       *http.Client // operators'
	cmd        *exec.Cmd
	log        *os.File
	logFile    string
	ended      chan struct{}
	status     error // set before ended is closed
}

// start starts keyway serve.
func (g *gateway) start(keyway, config, logFile string) (err error) {
	g.logFile, g.ended = logFile, make(chan struct{})
	if g.log, err = os.Create(g.logFile); err != nil {
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

// until repeats f until it returns nil, for at most d.
func (g *gateway) until(ctx context.Context, d time.Duration, what string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-g.ended:
			return fmt.Errorf("keyway ended (%w) before it %s; its log is %s", g.status, what, g.tail())
		case <-ctx.Done():
			return fmt.Errorf("keyway not %q in time: %w (%w)", what, err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stat asks for the pool's state.
func (g *gateway) stat(ctx context.Context) (pool.Stat, error) {
	var list adminapi.MemberList
	if err := g.order(ctx, http.MethodGet, "/admin/v1/members?pool="+poolName, nil, &list); err != nil {
		return pool.Stat{}, err
	}
	if len(list.Pools) != 1 {
		return pool.Stat{}, fmt.Errorf("asked for one pool and heard of %d", len(list.Pools))
	}
	return list.Pools[0], nil
}

// member asks for one member's state; nil when it is not there.
func (g *gateway) member(ctx context.Context, t *token) (*pool.MemberStat, error) {
	s, err := g.stat(ctx)
	if err != nil {
		return nil, err
	}
	for i := range s.Members {
		if s.Members[i].Name == t.record.Name {
			return &s.Members[i], nil
		}
	}
	return nil, nil
}

// order sends an operator's command.
func (g *gateway) order(ctx context.Context, method, path string, body, answer any) error {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.admin+path, in)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.adminToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := g.http.Do(req)
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

// stop interrupts keyway and waits for it. It is safe to call twice.
func (g *gateway) stop() error {
	defer g.log.Close()
	_ = g.cmd.Process.Signal(os.Interrupt)
	select {
	case <-g.ended:
	case <-time.After(45 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
		return fmt.Errorf("keyway did not end within 45 s of SIGINT and was killed; its log: %s", g.tail())
	}
	if g.status != nil {
		return fmt.Errorf("keyway ended with %w; its log: %s", g.status, g.tail())
	}
	return nil
}

// dump ends keyway by SIGQUIT, for which Go's runtime writes every goroutine's stack into the log.
func (g *gateway) dump() error {
	err := g.cmd.Process.Signal(syscall.SIGQUIT)
	<-g.ended
	g.status = nil // it was asked for
	return err
}

// tail is the end of keyway's log.
func (g *gateway) tail() []byte {
	b, _ := os.ReadFile(g.logFile) // where there is none, there is none
	return bytes.TrimSpace(b[max(0, len(b)-4000):])
}
