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
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// served is a keyway serve in a process of its own, whose members are devices.
type served struct {
	addr, admin netip.AddrPort
	adminToken  string
	clients     map[string]string // token by name
	cmd         *exec.Cmd
	log         string
	ended       chan struct{}
	status      error // set before ended is closed
}

// Clients and key of a served gateway.
const (
	modest   = "modest"
	greedy   = "greedy"
	scaleKey = "scale-mac"
)

// serve starts a gateway with devices as its members, and with the key and the clients. Stop it.
func (s *scale) serve(ctx context.Context, devices ...*device) (_ *served, err error) {
	custody, err := s.newDevice(ctx)
	if err != nil {
		return nil, err
	}
	g := &served{adminToken: lifecycle.MintToken(adminapi.TokenPrefix), clients: map[string]string{}, ended: make(chan struct{}), log: filepath.Join(s.dir, custody.record.Name, "keyway.log")}
	config := filepath.Join(s.dir, custody.record.Name, "keyway.yaml")
	if err := g.configure(config, custody, devices); err != nil {
		return nil, err
	}
	log, err := os.Create(g.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	g.cmd = exec.Command(s.keyway, "serve", "--config", config)
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		g.status = g.cmd.Wait()
		close(g.ended)
	}()
	if err := g.furnish(ctx, len(devices)); err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return g, nil
}

// configure writes the configuration. JSON is YAML.
func (g *served) configure(file string, custody *device, devices []*device) error {
	for _, a := range []*netip.AddrPort{&g.addr, &g.admin} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }() // both at once, so that they differ
		*a = l.Addr().(*net.TCPAddr).AddrPort()
	}
	settings := func(d *device) (m map[string]any, err error) {
		b, err := json.Marshal(d.record)
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		delete(m, "pool")
		return m, err
	}
	c, err := settings(custody)
	if err != nil {
		return err
	}
	c["auto_root"] = true
	var members []any
	for _, d := range devices {
		m, err := settings(d)
		if err != nil {
			return err
		}
		members = append(members, m)
	}
	b, err := json.MarshalIndent(map[string]any{
		"listen": g.addr.String(), "custody": c,
		"admin":  map[string]any{"listen": g.admin.String(), "admins": []any{map[string]any{"name": "scale", "token_sha256": key.HashToken(g.adminToken)}}},
		"store":  map[string]any{"path": filepath.Join(filepath.Dir(file), "keyway.db")},
		"pools":  []any{map[string]any{"name": "default", "members": members, "slow_start": "1ns"}},
		"limits": map[string]any{"max_connections": 20_000},
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// furnish waits for the members and makes key and clients.
func (g *served) furnish(ctx context.Context, members int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := g.complete(ctx, members)
		if err == nil {
			break
		}
		select {
		case <-g.ended:
			return fmt.Errorf("keyway ended (%w); its log: %s", g.status, g.tail())
		case <-ctx.Done():
			return fmt.Errorf("the members do not serve in time: %w; keyway's log: %s", err, g.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := g.order(ctx, http.MethodPost, "/admin/v1/keys", lifecycle.KeyRequest{Name: scaleKey, Algorithm: key.HMACSHA256}, nil); err != nil {
		return err
	}
	for _, name := range []string{modest, greedy} {
		var c struct{ Token string }
		if err := g.order(ctx, http.MethodPost, "/admin/v1/clients", map[string]any{"name": name}, &c); err != nil {
			return err
		}
		g.clients[name] = c.Token
		if err := g.order(ctx, http.MethodPost, "/admin/v1/grants", map[string]any{"client": name, "pattern": "*", "usages": key.Originator | key.Recipient}, nil); err != nil {
			return err
		}
	}
	return nil
}

// complete returns nil when every member is active.
func (g *served) complete(ctx context.Context, members int) error {
	var list adminapi.MemberList
	if err := g.order(ctx, http.MethodGet, "/admin/v1/members?pool=default", nil, &list); err != nil {
		return err
	}
	active := 0
	for _, p := range list.Pools {
		for _, m := range p.Members {
			if m.State == pool.Active {
				active++
			}
		}
	}
	if active < members {
		return fmt.Errorf("%d of %d members serve", active, members)
	}
	return nil
}

// order sends an operator's command.
func (g *served) order(ctx context.Context, method, path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+g.admin.String()+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+g.adminToken)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err = io.ReadAll(res.Body); err != nil {
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

// request is a MAC of message for a client, as it goes over the wire.
func (g *served) request(client string) []byte {
	body := marshal(map[string]any{"message": message})
	return fmt.Appendf(nil, "POST /api/v1/keys/%s/mac HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		scaleKey, g.addr, g.clients[client], len(body), body)
}

// right returns the body of every right answer to request: the gateway itself says that its MAC is valid.
func (g *served) right(ctx context.Context) ([]byte, error) {
	ask := func(call string, in any) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.addr.String()+"/api/v1/keys/"+scaleKey+"/"+call, bytes.NewReader(marshal(in)))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+g.clients[modest])
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s %s", call, res.Status, b)
		}
		return b, err
	}
	right, err := ask("mac", map[string]any{"message": message})
	if err != nil {
		return nil, err
	}
	var a struct{ MAC string }
	if err := json.Unmarshal(right, &a); err != nil {
		return nil, err
	}
	b, err := ask("mac/verify", map[string]any{"message": message, "mac": a.MAC})
	var v struct{ Valid bool }
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err == nil && !v.Valid {
		err = fmt.Errorf("the gateway says that its own MAC is not valid: %s", right)
	}
	return right, err
}

// meter reads the clocks of the gateway and of all its workers.
func (g *served) meter() (meter, error) {
	workers, err := childrenOf(g.cmd.Process.Pid)
	return meter{[]int{g.cmd.Process.Pid}, workers}, err
}

// stop interrupts the gateway and waits for it. It is safe to call twice.
func (g *served) stop() error {
	_ = g.cmd.Process.Signal(os.Interrupt)
	select {
	case <-g.ended:
	case <-time.After(45 * time.Second):
		_ = g.cmd.Process.Kill()
		<-g.ended
	}
	if g.status != nil {
		return fmt.Errorf("keyway ended with %w; its log: %s", g.status, g.tail())
	}
	return nil
}

// tail is the end of the gateway's log.
func (g *served) tail() []byte {
	b, _ := os.ReadFile(g.log) // where there is none, there is none
	return bytes.TrimSpace(b[max(0, len(b)-4000):])
}
