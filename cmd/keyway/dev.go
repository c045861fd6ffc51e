package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
)

const (
	demoClient    = "demo"
	demoAdmin     = "dev-admin"
	devPool       = "default"
	maxDevMembers = 64
)

// demoKeys are the keys that dev makes, in this order.
var demoKeys = []lifecycle.KeyRequest{
	{Name: "demo-wrap", Algorithm: key.AES256},
	{Name: "demo-sign", Algorithm: key.ECP256},
	{Name: "demo-rsa", Algorithm: key.RSA2048},
	{Name: "demo-mac", Algorithm: key.HMACSHA256},
	{Name: "demo-ed25519", Algorithm: key.Ed25519},
}

func devCommand(out *output) *cobra.Command {
	d := &dev{out: out, telemetry: telemetryConfig{LogFormat: "text"}}
	c := &cobra.Command{
		Use: "dev", Short: "run everything for a developer: tokens, keys, a client", Args: none,
		Long: "dev makes software tokens, a store, a client and keys to play with in one directory and serves until it is interrupted.\nStarted again on the same directory it goes on with the same keys. It is not for production: PINs and tokens lie in that directory.",
		RunE: func(c *cobra.Command, _ []string) error {
			if d.members < 1 || d.members > maxDevMembers {
				return usagef("--members: use 1 to %d, not %d", maxDevMembers, d.members)
			}
			if _, err := parseLevel(d.telemetry.LogLevel); err != nil {
				return usagef("--log-level: %w", err)
			}
			ctx, stop := untilSignal(c.Context())
			defer stop()
			return d.run(ctx)
		},
	}
	f := c.Flags()
	f.StringVar(&d.dir, "dir", "./.dev", "the directory for tokens, PINs, store and dev.json")
	f.StringVar(&d.listen, "listen", "127.0.0.1:8400", "where the gateway answers; port 0 chooses a free one")
	f.StringVar(&d.admin, "admin", "127.0.0.1:8401", "where the operators' API answers; port 0 chooses a free one")
	f.IntVar(&d.members, "members", 3, "how many tokens the pool has")
	f.BoolVar(&d.embedded, "embedded", false, "use the embedded token even where SoftHSM 2 is installed")
	f.StringVar(&d.telemetry.LogLevel, "log-level", "warn", "debug, info, warn or error; the log goes to standard error")
	return c
}

// dev is one run of the dev command.
type dev struct {
	out           *output
	dir           string
	listen, admin string
	members       int
	embedded      bool
	telemetry     telemetryConfig

	home        *devHome
	progress    *progress
	adminToken  string
	clientToken string
}

func (d *dev) run(ctx context.Context) error {
	if d.out.json {
		d.telemetry.LogFormat = "json"
	}
	log := newLog(d.out.notes, d.telemetry)
	tok, err := newTokens(log)
	if err != nil {
		return err
	}
	if d.home, err = openDevHome(d.dir, d.embedded); err != nil {
		return err
	}
	defer d.home.close()
	d.out.note("%s", d.home.about())
	cfg, err := d.base()
	if err != nil {
		return err
	}
	l, err := bind(cfg)
	if err != nil {
		return err
	}
	d.progress = newProgress(d.out, 2*(d.members+1)+len(demoKeys))
	defer d.progress.end()
	if err := d.addTokens(ctx, tok, cfg); err != nil {
		l.close()
		return err
	}
	d.progress.step("opening the custody token and the store")
	n, err := openNode(ctx, cfg, l, log)
	if err != nil {
		return err
	}
	keys, err := d.furnish(ctx, n)
	if err != nil {
		return errors.Join(err, n.Close(context.WithoutCancel(ctx)))
	}
	d.progress.end()
	ctx, cancel := context.WithCancelCause(ctx)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		if err := d.announce(ctx, n, keys); err != nil {
			cancel(err)
		}
	}()
	err = n.serve(ctx)
	cancel(nil)
	<-announced
	return errors.Join(err, d.home.remove("dev.json"))
}

// base returns the configuration of the node but for its tokens, checked as far as the command line decides it.
func (d *dev) base() (cfg *config, err error) {
	if d.adminToken, err = d.home.secret("admin-token", func() string { return lifecycle.MintToken(adminapi.TokenPrefix) }); err != nil {
		return nil, err
	}
	if d.clientToken, err = d.home.secret("client-token", func() string { return lifecycle.MintToken(lifecycle.TokenPrefix) }); err != nil {
		return nil, err
	}
	cfg = newConfig()
	cfg.Listen, cfg.Admin.Listen, cfg.Telemetry.LogFormat, cfg.Telemetry.LogLevel = d.listen, d.admin, d.telemetry.LogFormat, d.telemetry.LogLevel
	cfg.Admin.Admins = []adminPerson{{Name: demoAdmin, TokenSHA256: digest(key.HashToken(d.adminToken))}}
	cfg.Store.Path = filepath.Join(d.home.dir, "keyway.db")
	cfg.Pools = []poolConfig{{Name: devPool}}
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

// addTokens makes what tokens are missing and adds all of them to the configuration.
func (d *dev) addTokens(ctx context.Context, tok *tokens, cfg *config) error {
	custody, err := d.token(ctx, tok, "custody")
	if err != nil {
		return err
	}
	cfg.Custody = &custodyConfig{MemberRecord: custody, AutoRoot: true}
	p := &cfg.Pools[0]
	for i := range maxDevMembers {
		name := fmt.Sprintf("m%d", i+1)
		if i >= d.members {
			p.forget = append(p.forget, name) // of an earlier start with more; its token stays
			continue
		}
		r, err := d.token(ctx, tok, name)
		if err != nil {
			return err
		}
		p.Members = append(p.Members, r)
	}
	cfg.setDefaults()
	return cfg.Validate()
}

func (d *dev) token(ctx context.Context, tok *tokens, name string) (lifecycle.MemberRecord, error) {
	r, made, err := d.home.token(ctx, tok, name)
	if err != nil {
		return r, fmt.Errorf("the token of %s: %w", name, err)
	}
	if made {
		d.progress.step("made the token of %s", name)
	} else {
		d.progress.step("found the token of %s", name)
	}
	return r, nil
}

// furnish waits for the members and makes the client and the keys that are missing. It returns the names of the keys.
func (d *dev) furnish(ctx context.Context, n *node) ([]string, error) {
	p := n.pools[devPool]
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	all := len(p.Stat().Members)
	d.progress.total += all - d.members // operators may have added some
	active, err := settle(wait, p, func(active int) { d.progress.step("%d of %d members serve", active, all) })
	if ctx.Err() != nil || active == 0 {
		return nil, errors.Join(fmt.Errorf("no member of the pool can serve"), err)
	}
	if err != nil {
		d.progress.total -= all - active
		d.out.note("warning: %v\nGoing on with the others.", err)
	}
	if err := d.client(ctx, n); err != nil {
		return nil, fmt.Errorf("the demo client: %w", err)
	}
	var names []string
	for _, r := range demoKeys {
		if r.Algorithm == key.Ed25519 && !p.Has(hsm.EDDSA) {
			d.progress.step("no key %s: the tokens have no EdDSA", r.Name)
			continue
		}
		if err := d.key(ctx, n, r); err != nil {
			return nil, fmt.Errorf("key %s: %w", r.Name, err)
		}
		names = append(names, r.Name)
	}
	return names, n.catalogue.Refresh(ctx)
}

// key makes one of the demo keys, unless it is there. Its state is the operator's affair.
func (d *dev) key(ctx context.Context, n *node, r lifecycle.KeyRequest) error {
	k, err := n.manager.Key(ctx, r.Name)
	if err == nil && (k.Primary != 0 || k.Versions[0].State != key.PreActive) {
		d.progress.step("found key %s", r.Name)
		return nil
	}
	if err != nil && !errors.Is(err, key.ErrNotFound) {
		return err
	}
	d.progress.step("making key %s (%s)", r.Name, r.Algorithm)
	_, err = n.manager.CreateKey(ctx, demoAdmin, r)
	return err
}

// client makes the demo client, or gives it the token of this directory again.
func (d *dev) client(ctx context.Context, n *node) error {
	clients, err := n.manager.Clients(ctx)
	if err != nil {
		return err
	}
	hash := key.HashToken(d.clientToken)
	for _, c := range clients {
		if c.Name != demoClient {
			continue
		}
		for _, h := range c.TokenHashes {
			if h == hash {
				return nil
			}
		}
		if d.clientToken, err = n.manager.NewToken(ctx, demoAdmin, demoClient); err != nil {
			return err
		}
		return d.home.write("client-token", []byte(d.clientToken+"\n"))
	}
	if _, err := n.manager.CreateClient(ctx, demoAdmin, key.Client{Name: demoClient, TokenHashes: []string{hash}}); err != nil {
		return err
	}
	_, err = n.manager.CreateGrant(ctx, demoAdmin, key.Grant{Client: demoClient, Pattern: "demo-*", Usages: key.Originator | key.Recipient})
	return err
}
