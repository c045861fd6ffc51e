//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/loadtest/ask"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// grace is how much later than its deadline an answer may come.
const grace = 50 * time.Millisecond

// keepIdle is how long a connection is kept that is not used: less than the gateway keeps it, so that no request is sent just when
// it is being closed.
const keepIdle = 30 * time.Second

// cluster is some gateways on one store. Operators' orders go to the first one; the others must follow it.
type cluster struct {
	gateways []*gateway
	deadline time.Duration // the gateways' for a request
	defaults bool          // as the settings say
	// slack is how many times what is said of the others' following is allowed: 1, and more where nothing is said about speed.
	slack time.Duration
	token string // of the client
	// members are those of the configuration; visitor is one more that operators add and remove.
	members     []*token
	visitor     *token
	http        *http.Client
	connections atomic.Int64 // that were ever made for requests
}

// startCluster makes tokens and configurations in dir and starts the gateways; it returns when every member serves on each
// and the keys are made. Stop it.
func startCluster(ctx context.Context, s settings, dir string) (_ *cluster, err error) {
	keyway, err := filepath.Abs(s.keyway)
	if err != nil {
		return nil, err
	}
	c := &cluster{deadline: s.deadline, defaults: s.defaults, slack: 1}
	if s.brief {
		c.slack = 10
	}
	c.http = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConns: 4096, MaxIdleConnsPerHost: 4096, IdleConnTimeout: keepIdle, DialContext: c.dial}}
	custody, members, visitor, err := makeTokens(ctx, keyway, dir)
	if err != nil {
		return nil, err
	}
	c.members, c.visitor = members, visitor
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	admin := lifecycle.MintToken(adminapi.TokenPrefix)
	for n := range s.gateways {
		g := &gateway{Gateway: rig.NewGateway(), name: fmt.Sprintf("gateway %d", n+1)}
		g.AdminToken = admin
		config := filepath.Join(dir, fmt.Sprintf("keyway%d.yaml", n+1))
		if err := c.configure(g, config, dir, custody); err != nil {
			return nil, err
		}
		if err := g.Start(keyway, config, filepath.Join(dir, fmt.Sprintf("keyway%d.log", n+1))); err != nil {
			return nil, err
		}
		c.gateways = append(c.gateways, g)
		if err := g.Ready(ctx, len(c.members), time.Minute*c.slack); err != nil { // one after the other: the first makes the store and the KEKs
			return nil, err
		}
	}
	return c, c.furnish(ctx)
}

func (c *cluster) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.connections.Add(1)
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// maxMemory is where the worker of a member whose library may leak is replaced.
const maxMemory = 256 * megabyte

// configure writes a gateway's configuration.
func (c *cluster) configure(g *gateway, file, dir string, custody *token) error {
	conf := rig.Config{Store: filepath.Join(dir, "keyway.db"), Custody: custody.Token, Limits: map[string]any{"op_timeout": c.deadline.String()}}
	for _, t := range c.members {
		conf.Members = append(conf.Members, t.Token)
	}
	if !c.defaults {
		conf.Pool = map[string]any{"attempts": len(c.members), "verify_signatures": true}
	}
	return conf.Write(g.Gateway, file)
}

func (c *cluster) furnish(ctx context.Context) error {
	var err error
	if c.token, err = c.gateways[0].Furnish(ctx); err != nil {
		return err
	}
	for _, g := range c.gateways { // the others hear of it from the store
		if err := g.Until(ctx, 10*time.Second*c.slack, "knows the client and the keys", func() error { return c.mayWrap(ctx, g) }); err != nil {
			return err
		}
	}
	return nil
}

// mayWrap returns nil when the client may use a key on g.
func (c *cluster) mayWrap(ctx context.Context, g *gateway) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL()+"/api/v1/keys/wrap/wrap", strings.NewReader(`{"plaintext_key":"AAAAAAAAAAAAAAAAAAAAAA=="}`))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = ask.Refusal(res.StatusCode, b)
	}
	return err
}

// complete returns nil when every member of the configuration is active on g, and no other is there.
func (c *cluster) complete(ctx context.Context, g *gateway) error {
	if err := g.Complete(ctx, len(c.members)); err != nil {
		return fmt.Errorf("on %s: %w", g.name, err)
	}
	return nil
}

// stop stops every gateway. It is safe to call twice.
func (c *cluster) stop() (err error) {
	c.http.CloseIdleConnections()
	for _, g := range c.gateways {
		err = errors.Join(err, g.Stop())
	}
	return err
}

// How soon the other gateways must do what was ordered on the first one. Taking a member out waits for the work under way there, for at most
// 30 s, and putting it in waits for that.
const (
	followWithin     = 5 * time.Second
	followAfterDrain = 40 * time.Second
)

// followed waits until a member is on every gateway as is says, which the store tells all but the first; is gets nil for a member that is not
// there. It returns a breach when one takes too long.
func (c *cluster) followed(ctx context.Context, t *token, what string, within time.Duration, is func(*pool.MemberStat) bool) error {
	within *= c.slack
	for _, g := range c.gateways[1:] {
		began := time.Now()
		for {
			m, err := g.Member(ctx, t.Token)
			if err != nil {
				return err
			}
			if is(m) {
				break
			}
			if time.Since(began) > within {
				state := "not there"
				if m != nil {
					state = fmt.Sprintf("%s (%s)", m.State, m.Reason)
				}
				return &breach{gatewaysFollow, fmt.Sprintf("%s after %s on the first gateway: on %s it is %s", what, within, g.name, state)}
			}
			if !rig.Sleep(ctx, 50*time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	return nil
}

// breach is a promise that was found broken where a fault begins or ends.
type breach struct{ promise, what string }

func (b *breach) Error() string { return b.promise + ": " + b.what }
