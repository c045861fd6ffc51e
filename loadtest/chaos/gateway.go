//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// grace is how much later than its deadline an answer may come.
const grace = 50 * time.Millisecond

// poolName is the pool of all members.
const poolName = "default"

// gateway is a running keyway serve and the operators' access to it.
type gateway struct {
	url, admin  string
	deadline    time.Duration // the gateway's for a request
	token       string        // of the client
	adminToken  string
	members     []*token
	http        *http.Client
	connections atomic.Int64 // that were ever made
	cmd         *exec.Cmd
	log         *os.File
	logFile     string
	ended       chan struct{}
	status      error // set before ended is closed
}

// startGateway makes tokens and a configuration in dir and starts keyway serve; it returns when every member serves and
// the keys are made. Stop it.
func startGateway(ctx context.Context, keyway, dir string, deadline time.Duration) (_ *gateway, err error) {
	if keyway, err = filepath.Abs(keyway); err != nil {
		return nil, err
	}
	g := &gateway{deadline: deadline, adminToken: lifecycle.MintToken(adminapi.TokenPrefix), token: lifecycle.MintToken(lifecycle.TokenPrefix), ended: make(chan struct{})}
	g.http = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, DialContext: g.dial}}
	custody, members, err := makeTokens(ctx, keyway, dir)
	if err != nil {
		return nil, err
	}
	g.members = members
	config := filepath.Join(dir, "keyway.yaml")
	if err := g.configure(config, dir, custody); err != nil {
		return nil, err
	}
	g.logFile = filepath.Join(dir, "keyway.log")
	if g.log, err = os.Create(g.logFile); err != nil {
		return nil, err
	}
	g.cmd = exec.Command(keyway, "serve", "--config", config)
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s (make build makes it): %w", keyway, err)
	}
	go func() {
		g.status = g.cmd.Wait()
		close(g.ended)
	}()
	if err := g.furnish(ctx); err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return g, nil
}

func (g *gateway) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	g.connections.Add(1)
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// configure writes the configuration. JSON is YAML.
func (g *gateway) configure(file, dir string, custody *token) error {
	ports := make([]string, 2)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }() // both at once, so that they differ
		ports[i] = l.Addr().String()
	}
	g.url, g.admin = "http://"+ports[0], "http://"+ports[1]
	cust, err := custody.settings()
	if err != nil {
		return err
	}
	cust["auto_root"] = true
	var members []any
	for _, t := range g.members {
		m, err := t.settings()
		if err != nil {
			return err
		}
		members = append(members, m)
	}
	b, err := json.MarshalIndent(map[string]any{
		"listen": ports[0], "clear_text": true,
		"admin":   map[string]any{"listen": ports[1], "admins": []any{map[string]any{"name": "chaos", "token_sha256": key.HashToken(g.adminToken)}}},
		"store":   map[string]any{"path": filepath.Join(dir, "keyway.db")},
		"custody": cust,
		"pools":   []any{map[string]any{"name": poolName, "members": members, "attempts": len(members), "verify_signatures": true}},
		"limits":  map[string]any{"op_timeout": g.deadline.String()},
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// keys are made at the start, one for each algorithm.
var keys = []lifecycle.KeyRequest{
	{Name: "wrap", Algorithm: key.AES256}, {Name: "ec", Algorithm: key.ECP256}, {Name: "rsa", Algorithm: key.RSA2048},
	{Name: "mac", Algorithm: key.HMACSHA256}, {Name: "ed", Algorithm: key.Ed25519},
}

func (g *gateway) furnish(ctx context.Context) error {
	if err := g.until(ctx, time.Minute, "answers", func() error { return g.order(ctx, http.MethodGet, "/healthz", nil, nil) }); err != nil {
		return err
	}
	if err := g.until(ctx, time.Minute, "has all members", func() error { return g.complete(ctx) }); err != nil {
		return err
	}
	for _, k := range keys {
		if err := g.order(ctx, http.MethodPost, "/admin/v1/keys", k, nil); err != nil {
			return err
		}
	}
	var c struct {
		Token string `json:"token"`
	}
	if err := g.order(ctx, http.MethodPost, "/admin/v1/clients", map[string]any{"name": "chaos"}, &c); err != nil {
		return err
	}
	g.token = c.Token
	return g.order(ctx, http.MethodPost, "/admin/v1/grants", map[string]any{"client": "chaos", "pattern": "*", "usages": key.Originator | key.Recipient}, nil)
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

// complete returns nil when every member is active.
func (g *gateway) complete(ctx context.Context) error {
	s, err := g.stat(ctx)
	if err != nil {
		return err
	}
	active := 0
	var why []error
	for _, m := range s.Members {
		if m.State == pool.Active {
			active++
		} else {
			why = append(why, fmt.Errorf("%s is %s (%s)", m.Name, m.State, m.Reason))
		}
	}
	if active < len(g.members) {
		return fmt.Errorf("%d of %d members serve: %w", active, len(g.members), errors.Join(why...))
	}
	return nil
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
	g.http.CloseIdleConnections()
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
