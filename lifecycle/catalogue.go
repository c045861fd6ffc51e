package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyway/lifecycle/key"
)

// maxUses is how many uses of a version of AES-GCM are given out. With random nonces a key may encrypt 2^32 times (NIST SP
// 800-38D, 8.3), and one use may encrypt more than once, unseen from here: a pool tries again on another member, and asks for
// second opinions after ambiguous errors, each for at most pool.Config.RetryRatio of its operations, which is 1 at most. 2^30
// uses with all of those are 3·2^30 encryptions; the last 2^30 up to 2^32 are for the ten a second that a quiet pool may
// always try again, and for operations that a lost worker took along.
const maxUses = 1 << 30

// CatalogueConfig configures a Catalogue.
type CatalogueConfig struct {
	Store Store
	// Poll is how often the store is asked for its epoch while it does not tell of changes itself. Default 250 ms.
	Poll time.Duration
	// MaxStale is how long the catalogue serves without an answer of the store. Default 15 min.
	MaxStale time.Duration
	Log      *slog.Logger
}

// Catalogue tells gateways what keys and clients there are. It follows changes by anybody who
// shares the store. It is safe for concurrent use.
type Catalogue struct {
	cfg       CatalogueConfig
	epoch     atomic.Uint64
	directory atomic.Pointer[key.Directory]
	heard     atomic.Pointer[time.Time] // the store's last answer, by the monotonic clock: a clock set back makes nothing fresher
	refreshMu sync.Mutex
	stop      context.CancelFunc
	stopped   chan struct{}
}

// NewCatalogue reads the store once and then follows it. Close it.
func NewCatalogue(ctx context.Context, cfg CatalogueConfig) (*Catalogue, error) {
	if cfg.Poll == 0 {
		cfg.Poll = 250 * time.Millisecond
	}
	if cfg.MaxStale == 0 {
		cfg.MaxStale = 15 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalogue{cfg: cfg, stopped: make(chan struct{})}
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.follow(run)
	return c, nil
}

// Close ends following and waits for it.
func (c *Catalogue) Close() {
	c.stop()
	<-c.stopped
}

func (c *Catalogue) follow(ctx context.Context) {
	defer close(c.stopped)
	failing := false
	everyChange(ctx, c.cfg.Store, c.cfg.Poll, func() {
		err := c.Refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != failing {
			failing = err != nil
			if failing {
				c.cfg.Log.Error("the store does not answer; serving what is known", "error", err, "for", c.cfg.MaxStale)
			} else {
				c.cfg.Log.Info("the store answers again")
			}
		}
	})
}

// Refresh asks the store now.
func (c *Catalogue) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c.refreshMu.Lock()
	defer c.refreshMu.Unlock()
	err := c.cfg.Store.View(ctx, func(tx Tx) error {
		epoch, err := tx.Epoch()
		if err != nil || epoch == c.epoch.Load() && c.directory.Load() != nil {
			return err
		}
		clients, err := tx.Clients()
		if err != nil {
			return err
		}
		grants, err := tx.Grants()
		if err != nil {
			return err
		}
		c.directory.Store(key.NewDirectory(clients, grants))
		c.epoch.Store(epoch)
		return nil
	})
	if err == nil {
		now := time.Now()
		c.heard.Store(&now)
	}
	return err
}

// Epoch counts changes: what was read at an older epoch may be out of date.
func (c *Catalogue) Epoch() uint64 { return c.epoch.Load() }

// Directory returns the clients and grants as last heard, never nil.
func (c *Catalogue) Directory() *key.Directory { return c.directory.Load() }

// Fresh returns nil, or an error wrapping key.ErrStale when the store has not answered for longer than MaxStale.
func (c *Catalogue) Fresh() error {
	if age := time.Since(*c.heard.Load()); age > c.cfg.MaxStale {
		return fmt.Errorf("%w: the store has not answered for %s", key.ErrStale, age.Round(time.Second))
	}
	return nil
}

// Key returns one version; Version 0 is the primary one. The Version is the caller's to keep, not to change.
func (c *Catalogue) Key(ctx context.Context, r key.Ref) (v *key.Version, err error) {
	err = c.cfg.Store.View(ctx, func(tx Tx) error { v, err = tx.Version(r); return err })
	return v, err
}

// Describe returns a key with all its versions.
func (c *Catalogue) Describe(ctx context.Context, name string) (k *key.Key, err error) {
	err = c.cfg.Store.View(ctx, func(tx Tx) error { k, err = tx.Key(name); return err })
	return k, err
}

// Reserve sets n uses of an AES-GCM version aside for the caller and returns how many it got, less than
// n only near the end. With none left it returns an error wrapping key.ErrState.
func (c *Catalogue) Reserve(ctx context.Context, version key.ID, n uint64) (granted uint64, err error) {
	err = c.cfg.Store.Update(ctx, func(tx Tx) error {
		total, err := tx.AddUses(version, n)
		if err != nil {
			return err
		}
		over := uint64(0)
		if total > maxUses {
			over = total - maxUses
		}
		if over >= n {
			return fmt.Errorf("%w: the version has been used 2^30 times, as often as is safe with AES-GCM; rotate the key", key.ErrState)
		}
		granted = n - over
		return nil
	})
	return granted, err
}
