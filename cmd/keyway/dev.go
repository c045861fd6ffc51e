package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
)

const (
	demoClient = "demo"
	demoAdmin  = "dev-admin"
)

// demoKeys are the keys that dev makes, in this order.
var demoKeys = []lifecycle.KeyRequest{
	{Name: "demo-wrap", Algorithm: key.AES256},
	{Name: "demo-sign", Algorithm: key.ECP256},
	{Name: "demo-rsa", Algorithm: key.RSA2048},
	{Name: "demo-mac", Algorithm: key.HMACSHA256},
	{Name: "demo-ed25519", Algorithm: key.Ed25519},
}

// devInfo is dev.json, which scripts and tests read.
type devInfo struct {
	URL         string      `json:"url"`
	AdminURL    string      `json:"admin_url"`
	ClientToken string      `json:"client_token"`
	AdminToken  string      `json:"admin_token"`
	Pool        string      `json:"pool"`
	Members     []devMember `json:"members"`
	Keys        []string    `json:"keys"`
}

type devMember struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Token string `json:"token"`
}

func devCommand(out *output) *cobra.Command {
	d := &dev{out: out, telemetry: telemetryConfig{LogFormat: "text"}}
	c := &cobra.Command{
		Use: "dev", Short: "run everything for a developer: tokens, keys, a client", Args: none,
		Long: "dev makes software tokens, a store, a client and keys to play with in one directory and serves until it is interrupted.\nStarted again on the same directory it goes on with the same keys. It is not for production: PINs and tokens lie in that directory.",
		RunE: func(c *cobra.Command, _ []string) error {
			if d.members < 1 || d.members > 64 {
				return usagef("--members: use 1 to 64, not %d", d.members)
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
	d.progress = newProgress(d.out.notes, 2*(d.members+1)+1+len(demoKeys))
	defer d.progress.end()
	cfg, err := d.config(ctx, tok)
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil {
		return usageError{err}
	}
	d.progress.step("opening the custody token and the store")
	n, err := openNode(ctx, cfg, log)
	if err != nil {
		return err
	}
	keys, err := d.furnish(ctx, n)
	if err != nil {
		return errors.Join(err, n.Close(context.WithoutCancel(ctx)))
	}
	d.progress.end()
	ready := make(chan error, 1)
	go func() { ready <- d.announce(ctx, n, keys) }()
	err = n.serve(ctx)
	return errors.Join(err, <-ready, d.home.remove("dev.json"))
}

// config makes what tokens are missing and returns the configuration of the node.
func (d *dev) config(ctx context.Context, tok *tokens) (*config, error) {
	var err error
	if d.adminToken, err = d.home.secret("admin-token", func() string { return lifecycle.MintToken(adminapi.TokenPrefix) }); err != nil {
		return nil, err
	}
	if d.clientToken, err = d.home.secret("client-token", func() string { return lifecycle.MintToken(lifecycle.TokenPrefix) }); err != nil {
		return nil, err
	}
	p := poolConfig{Name: "default"}
	custody, err := d.token(ctx, tok, "custody")
	if err != nil {
		return nil, err
	}
	for i := range d.members {
		r, err := d.token(ctx, tok, fmt.Sprintf("m%d", i+1))
		if err != nil {
			return nil, err
		}
		p.Members = append(p.Members, r)
	}
	cfg := &config{
		Listen: d.listen, Telemetry: d.telemetry,
		Admin:   adminConfig{Listen: d.admin, Admins: []adminPerson{{Name: demoAdmin, TokenSHA256: digest(key.HashToken(d.adminToken))}}},
		Store:   storeConfig{Path: filepath.Join(d.home.dir, "keyway.db")},
		Custody: &custodyConfig{MemberRecord: custody, AutoRoot: true},
		Pools:   []poolConfig{p},
	}
	cfg.setDefaults()
	return cfg, nil
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
	const pool = "default"
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range d.members {
		if err := waitForMembers(wait, n.pools[pool], i+1); err != nil {
			if ctx.Err() != nil || n.ready() != nil {
				return nil, err
			}
			d.out.note("warning: %v; going on with the others", err)
			break
		}
		d.progress.step("%d of %d members serve", i+1, d.members)
	}
	if err := d.client(ctx, n); err != nil {
		return nil, fmt.Errorf("the demo client: %w", err)
	}
	var names []string
	for _, r := range demoKeys {
		if r.Algorithm == key.Ed25519 && !n.pools[pool].Has(hsm.EDDSA) {
			d.out.note("no %s: the tokens have no EdDSA", r.Name)
			continue
		}
		k, err := n.manager.Key(ctx, r.Name)
		if errors.Is(err, key.ErrNotFound) || err == nil && k.Primary == 0 && k.Versions[0].State == key.PreActive {
			d.progress.step("making key %s (%s)", r.Name, r.Algorithm)
			_, err = n.manager.CreateKey(ctx, demoAdmin, r)
		}
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", r.Name, err)
		}
		names = append(names, r.Name)
	}
	return names, n.catalogue.Refresh(ctx)
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

// announce writes dev.json and tells what to try, once the gateway answers.
func (d *dev) announce(ctx context.Context, n *node, keys []string) error {
	for n.ready() != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(20 * time.Millisecond):
		}
	}
	info := devInfo{
		URL: "http://" + reachable(n.listener), AdminURL: "http://" + reachable(n.adminL), ClientToken: d.clientToken, AdminToken: d.adminToken,
		Pool: "default", Keys: keys,
	}
	for _, m := range n.pools["default"].Stat().Members {
		info.Members = append(info.Members, devMember{m.Name, m.PID, m.Token})
	}
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	if err := d.home.write("dev.json", append(b, '\n')); err != nil {
		return err
	}
	file := filepath.Join(d.home.dir, "dev.json")
	d.out.note("ready: gateway %s, operators' API %s; URLs and tokens are in %s\nTry, in another terminal:\n", info.URL, info.AdminURL, file)
	if !d.out.json {
		fmt.Fprint(d.out.w, tryLines(file, info.URL))
	}
	d.out.note("\nInterrupt (Ctrl-C) ends it; the keys stay in %s.", d.home.dir)
	return nil
}

// tryLines are three lines for a POSIX shell with curl. They read the token from dev.json, so that it is in no scrollback.
func tryLines(file, url string) string {
	quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
	curl := func(call, body string) string {
		return fmt.Sprintf("curl -sS -H \"Authorization: Bearer $(sed -n 's/.*\"client_token\": \"\\(.*\\)\".*/\\1/p' %s)\" %s/api/v1/keys/%s%s; echo\n", quoted, url, call, body)
	}
	return curl("demo-sign/sign", ` -d '{"message":"aGVsbG8=","hash":"sha2-256"}'`) +
		curl("demo-wrap/wrap", ` -d "{\"plaintext_key\":\"$(head -c 32 /dev/urandom | base64)\"}"`) +
		curl("demo-rsa/public.pem", "")
}

// reachable is a listener's address as a client on this machine reaches it.
func reachable(l net.Listener) string {
	a := l.Addr().(*net.TCPAddr)
	if a.IP.IsUnspecified() {
		return fmt.Sprintf("127.0.0.1:%d", a.Port)
	}
	return a.String()
}

// remove removes a file of the directory; one that is not there is no error.
func (h *devHome) remove(name string) error {
	err := os.Remove(filepath.Join(h.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
