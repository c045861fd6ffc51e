package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"keyway/gateway"
	"keyway/hsm/worker"
	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/pool"
)

// followEvery is how often a node asks the store what members its pools shall have.
const followEvery = 500 * time.Millisecond

// custodyWait is how long a node waits for its custody token when it starts.
const custodyWait = 30 * time.Second

// telemetryWait is how long the last metrics and traces may take to be sent.
const telemetryWait = 2 * time.Second

// node is one running Keyway: the store, the pools with their tokens, the gateway and the operators' API.
type node struct {
	cfg       *config
	log       *slog.Logger
	telemetry *telemetry
	store     lifecycle.Store
	custody   *lifecycle.Custody
	custodyUp bool // the custody token was there when the node started
	manager   *lifecycle.Manager
	auditLog  *lifecycle.AuditLog
	catalogue *lifecycle.Catalogue
	pools     map[string]*pool.Pool
	members   map[string]*lifecycle.Membership
	admins    map[string]adminapi.Members
	gateway   *gateway.Server
	admin     *http.Server
	listener  net.Listener // the gateway's
	adminL    net.Listener

	undo []func(context.Context) error // run last first by Close
}

// openNode builds a node after cfg, which has been validated. It does not serve yet, and its members are still joining.
// The listeners are its own from now on, whatever it returns. Close it.
func openNode(ctx context.Context, cfg *config, l bound, log *slog.Logger) (n *node, err error) {
	n = &node{cfg: cfg, log: log, listener: l.gateway, adminL: l.admin, pools: map[string]*pool.Pool{}, members: map[string]*lifecycle.Membership{}, admins: map[string]adminapi.Members{}}
	n.defers(func(context.Context) error { l.close(); return nil })
	defer func() {
		if err != nil {
			_ = n.Close(context.WithoutCancel(ctx)) // the first error is the one to tell
			n = nil
		}
	}()
	// Requests hold clear text, and clients' tokens.
	if err := worker.NoCoreFiles(); err != nil {
		return n, err
	}
	if err := n.openStore(ctx); err != nil {
		return n, err
	}
	if err := n.openAudit(ctx); err != nil {
		return n, err
	}
	if n.telemetry, err = startTelemetry(ctx, cfg.Telemetry, log); err != nil {
		return n, err
	}
	n.defers(func(ctx context.Context) error {
		// A collector that is away must not hold up the end, nor make it a bad one.
		ctx, cancel := context.WithTimeout(ctx, telemetryWait)
		defer cancel()
		if err := n.telemetry.Close(ctx); err != nil {
			log.Warn("the last telemetry could not be sent", "error", err)
		}
		return nil
	})
	tok, err := newTokens(log)
	if err != nil {
		return n, err
	}
	if err := n.openCustody(ctx, tok); err != nil {
		return n, err
	}
	n.manager = lifecycle.NewManager(lifecycle.ManagerConfig{Store: n.store, Custody: n.custody, Log: log})
	for i := range cfg.Pools {
		if err := n.openPool(ctx, tok, &cfg.Pools[i]); err != nil {
			return n, fmt.Errorf("pool %s: %w", cfg.Pools[i].Name, err)
		}
	}
	n.catalogue, err = lifecycle.NewCatalogue(ctx, lifecycle.CatalogueConfig{Store: n.store, MaxStale: cfg.Limits.MaxStale, Log: log})
	if err != nil {
		return n, fmt.Errorf("reading the catalogue: %w", err)
	}
	n.defers(func(context.Context) error { n.catalogue.Close(); return nil })
	if err := n.openGateway(); err != nil {
		return n, err
	}
	return n, n.openAdmin()
}

func (n *node) defers(f func(context.Context) error) { n.undo = append(n.undo, f) }

// Close ends everything, last opened first, and waits for it; ctx bounds how long requests under way may take.
func (n *node) Close(ctx context.Context) error {
	var err error
	for i := len(n.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, n.undo[i](ctx))
	}
	n.undo = nil
	return err
}

func (n *node) openStore(ctx context.Context) error {
	s, err := openStore(ctx, n.cfg.Store, n.log)
	if err != nil {
		return err
	}
	n.store = s
	n.defers(func(context.Context) error { return s.Close() })
	return nil
}

// openStore opens the database of a configuration, making an embedded one where it is not there.
func openStore(ctx context.Context, c storeConfig, log *slog.Logger) (*sqlstore.Store, error) {
	if p := c.Postgres; p != nil {
		return sqlstore.OpenPostgres(ctx, sqlstore.Postgres{DSN: p.DSN, PasswordFile: p.PasswordFile, MaxConns: p.MaxConnections, Log: log})
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, fmt.Errorf("the directory of the database: %w", err)
	}
	s, err := sqlstore.Open(ctx, c.Path)
	if err != nil {
		return nil, fmt.Errorf("opening the database %s: %w", c.Path, err)
	}
	return s, nil
}

// openCustody opens the custody token in a pool of its own. Without it a node whose pools have their KEKs serves all
// the same; only keys cannot be made.
func (n *node) openCustody(ctx context.Context, tok *tokens) error {
	if n.cfg.Custody == nil {
		n.log.Warn("no custody section in the configuration: keys cannot be made here")
		return nil
	}
	c, err := newCustodyMember(ctx, n.store, tok, n.cfg.Custody.MemberRecord, n.log)
	if err != nil {
		return fmt.Errorf("custody: %w", err)
	}
	n.defers(func(context.Context) error { return c.pool.Close() })
	n.admins[custodyPool] = c
	n.custody = lifecycle.NewCustody(lifecycle.CustodyConfig{Token: c.pool, Store: n.store, AutoRoot: n.cfg.Custody.AutoRoot, Log: n.log})
	wait, cancel := context.WithTimeout(ctx, custodyWait)
	defer cancel()
	if _, err = settle(wait, c.pool, func(int) {}); err == nil {
		err = n.custody.Init(ctx)
	}
	n.custodyUp = err == nil
	if n.custodyUp || ctx.Err() != nil {
		return err
	}
	for _, p := range n.cfg.Pools {
		if _, missing := n.knownKEK(ctx, p.Name); missing != nil {
			return fmt.Errorf("custody: %w", err)
		}
	}
	n.log.Error("the custody token cannot be used; serving goes on, making keys does not", "error", err)
	return nil
}

// knownKEK returns a pool's KEK as recorded.
func (n *node) knownKEK(ctx context.Context, pool string) (k *lifecycle.KEK, err error) {
	err = n.store.View(ctx, func(tx lifecycle.Tx) error {
		if k, err = tx.KEK(lifecycle.KEKPool, pool); err == nil && k.KCV == nil {
			err = fmt.Errorf("its KEK was never made: %w", key.ErrNotFound)
		}
		return err
	})
	return k, err
}

func (n *node) openPool(ctx context.Context, tok *tokens, c *poolConfig) error {
	kek, err := n.knownKEK(ctx, c.Name)
	if n.custodyUp {
		kek, err = n.custody.EnsurePool(ctx, c.Name)
	}
	if errors.Is(err, key.ErrNotFound) {
		return fmt.Errorf("it has no KEK yet, and %w", lifecycle.ErrNoCustody)
	}
	if err != nil {
		return err
	}
	pc := c.pool()
	pc.Log = n.log
	p, err := pool.New(pc)
	if err != nil {
		return err
	}
	n.pools[c.Name] = p
	n.defers(func(context.Context) error { return p.Close() })
	m := lifecycle.NewMembership(lifecycle.MembershipConfig{Store: n.store, Pool: p, PoolName: c.Name, KEK: kek, Custody: n.custody, Open: tok.opener, Stats: n.stats, Log: n.log})
	n.members[c.Name], n.admins[c.Name] = m, m
	if _, err := lifecycle.RecordMembers(ctx, n.store, c.Name, c.Members, c.forget); err != nil {
		return err
	}
	n.defers(func(context.Context) error { m.Close(); return nil })
	if err := m.Load(ctx); err != nil {
		return err
	}
	m.Follow(followEvery)
	return nil
}

// stats returns the statistics of every pool, custody among them. It is called once the node has been opened.
func (n *node) stats() []pool.Stat {
	var all []pool.Stat
	for _, m := range n.admins {
		all = append(all, m.Stat())
	}
	return all
}
