//go:build linux

package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// Pool is the name of the pool of all members.
const Pool = "default"

// Config is what a gateway's configuration file says; what is not here has its default.
type Config struct {
	Store   string // the path of the database
	Custody *Token
	Members []*Token
	// Pool are more settings of the pool, Limits those of the gateway, by their names in the file.
	Pool, Limits map[string]any
}

// Write chooses free ports of the loopback interface for g and writes the configuration file. JSON is YAML.
func (c Config) Write(g *Gateway, file string) error {
	ports := make([]string, 2)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }() // both at once, so that they differ
		ports[i] = l.Addr().String()
	}
	g.Listen, g.Admin = ports[0], ports[1]
	custody, err := c.Custody.Settings()
	if err != nil {
		return err
	}
	custody["auto_root"] = true
	var members []any
	for _, t := range c.Members {
		m, err := t.Settings()
		if err != nil {
			return err
		}
		members = append(members, m)
	}
	p := map[string]any{"name": Pool, "members": members}
	for k, v := range c.Pool {
		p[k] = v
	}
	b, err := json.MarshalIndent(map[string]any{
		"listen": ports[0], "clear_text": true,
		"admin":   map[string]any{"listen": ports[1], "admins": []any{map[string]any{"name": "rig", "token_sha256": key.HashToken(g.AdminToken)}}},
		"store":   map[string]any{"path": c.Store},
		"custody": custody,
		"pools":   []any{p},
		"limits":  c.Limits,
	}, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

// NewGateway returns one that is not started yet, with an operator's token.
func NewGateway() *Gateway {
	return &Gateway{AdminToken: lifecycle.MintToken(adminapi.TokenPrefix), HTTP: &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Ready waits until the gateway answers and has n active members, for at most d each.
func (g *Gateway) Ready(ctx context.Context, n int, d time.Duration) error {
	if err := g.Until(ctx, d, "answers", func() error { return g.Order(ctx, http.MethodGet, "/healthz", nil, nil) }); err != nil {
		return err
	}
	return g.Until(ctx, d, "has all members", func() error { return g.Complete(ctx, n) })
}

// Complete returns nil when n members are active and no other is there.
func (g *Gateway) Complete(ctx context.Context, n int) error {
	s, err := g.Stat(ctx)
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
	if active != n || len(s.Members) != n {
		return fmt.Errorf("%d members serve, not %d: %w", active, n, errors.Join(why...))
	}
	return nil
}

// keys are one for each algorithm, with the names that package ask knows.
var keys = []lifecycle.KeyRequest{
	{Name: "wrap", Algorithm: key.AES256}, {Name: "ec", Algorithm: key.ECP256}, {Name: "rsa", Algorithm: key.RSA2048},
	{Name: "mac", Algorithm: key.HMACSHA256}, {Name: "ed", Algorithm: key.Ed25519},
}

// Furnish makes the keys of package ask and a client that may use them, and returns the client's token.
func (g *Gateway) Furnish(ctx context.Context) (token string, err error) {
	for _, k := range keys {
		if err := g.Order(ctx, http.MethodPost, "/admin/v1/keys", k, nil); err != nil {
			return "", err
		}
	}
	var client struct {
		Token string `json:"token"`
	}
	if err := g.Order(ctx, http.MethodPost, "/admin/v1/clients", map[string]any{"name": "rig"}, &client); err != nil {
		return "", err
	}
	return client.Token, g.Order(ctx, http.MethodPost, "/admin/v1/grants", map[string]any{"client": "rig", "pattern": "*", "usages": key.Originator | key.Recipient}, nil)
}
