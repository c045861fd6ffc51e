//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/loadtest/rig"
)

// served is a keyway serve in a process of its own, whose members are devices.
type served struct {
	*rig.Gateway
	addr    netip.AddrPort    // where clients ask
	clients map[string]string // token by name
}

// Clients and key of a served gateway.
const (
	modest   = "modest"
	greedy   = "greedy"
	scaleKey = "scale-mac"
)

// serve starts a gateway with devices as its members, and with the key and the clients. Stop it.
func (s *scale) serve(ctx context.Context, devices ...*rig.Token) (_ *served, err error) {
	custody, err := s.newDevice(ctx)
	if err != nil {
		return nil, err
	}
	g := &served{Gateway: rig.NewGateway(), clients: map[string]string{}}
	home := filepath.Join(s.dir, custody.Record.Name)
	config := filepath.Join(home, "keyway.yaml")
	c := rig.Config{Store: filepath.Join(home, "keyway.db"), Custody: custody, Members: devices, Pool: map[string]any{"slow_start": "1ns"}, Limits: map[string]any{"max_connections": 20_000}}
	if err := c.Write(g.Gateway, config); err != nil {
		return nil, err
	}
	if g.addr, err = netip.ParseAddrPort(g.Listen); err != nil {
		return nil, err
	}
	if err := g.Start(s.keyway, config, filepath.Join(home, "keyway.log")); err != nil {
		return nil, err
	}
	if err := g.furnish(ctx, len(devices)); err != nil {
		return nil, errors.Join(err, g.Stop())
	}
	return g, nil
}

// furnish waits for the members and makes key and clients.
func (g *served) furnish(ctx context.Context, members int) error {
	if err := g.Ready(ctx, members, time.Minute); err != nil {
		return err
	}
	if err := g.Order(ctx, http.MethodPost, "/admin/v1/keys", lifecycle.KeyRequest{Name: scaleKey, Algorithm: key.HMACSHA256}, nil); err != nil {
		return err
	}
	for _, name := range []string{modest, greedy} {
		var c struct{ Token string }
		if err := g.Order(ctx, http.MethodPost, "/admin/v1/clients", map[string]any{"name": name}, &c); err != nil {
			return err
		}
		g.clients[name] = c.Token
		if err := g.Order(ctx, http.MethodPost, "/admin/v1/grants", map[string]any{"client": name, "pattern": "*", "usages": key.Originator | key.Recipient}, nil); err != nil {
			return err
		}
	}
	return nil
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
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+"/api/v1/keys/"+scaleKey+"/"+call, bytes.NewReader(marshal(in)))
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
	workers, err := childrenOf(g.PID())
	return meter{[]int{g.PID()}, workers}, err
}
