package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/lifecycle"
	"keyway/pool"
)

// custodyMember is the custody token: the one member of a pool of its own. Operators see it among the pools and may
// clear its latch; everything else about it is said by the configuration.
type custodyMember struct {
	store  lifecycle.Store
	pool   *pool.Pool
	record lifecycle.MemberRecord
	log    *slog.Logger
	// vouched: its latch was cleared, and it has not been opened since.
	vouched atomic.Bool
}

// newCustodyMember opens the custody token in the background. Its latch is kept in the store.
func newCustodyMember(ctx context.Context, store lifecycle.Store, tok *tokens, r lifecycle.MemberRecord, log *slog.Logger) (*custodyMember, error) {
	r.Pool = custodyPool
	stored, err := lifecycle.RecordMembers(ctx, store, custodyPool, []lifecycle.MemberRecord{r}, nil)
	if err != nil {
		return nil, err
	}
	c := &custodyMember{store: store, record: stored[0], log: log}
	// Making an RSA key takes a token seconds, some much longer.
	if c.pool, err = pool.New(pool.Config{Name: custodyPool, OpTimeout: time.Minute, Log: log}); err != nil {
		return nil, err
	}
	open := tok.opener(r)
	vouching := func(ctx context.Context) (hsm.Token, error) {
		if c.vouched.Swap(false) {
			ctx = hsm.Vouched(ctx)
		}
		return open(ctx)
	}
	err = c.pool.Add(pool.MemberConfig{
		Name: r.Name, Open: vouching, Sessions: r.Sessions, Queue: r.Queue, Handles: r.Handles,
		Latched: c.record.Latched, OnLatch: c.storeLatch,
	})
	if err != nil {
		return nil, errors.Join(err, c.pool.Close())
	}
	return c, nil
}

func (c *custodyMember) storeLatch(_, reason string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := lifecycle.LatchMember(ctx, c.store, "", custodyPool, c.record.Name, reason); err != nil {
		c.log.Error("the custody token's latch could not be stored and would not survive a restart", "error", err)
	}
}

var errCustody = fmt.Errorf("%w: the custody token is set up in the configuration file", lifecycle.ErrInvalid)

// Add is refused.
func (c *custodyMember) Add(context.Context, string, lifecycle.MemberRecord, lifecycle.AddOptions) (lifecycle.Added, error) {
	return lifecycle.Added{}, errCustody
}

// Trying is never the case.
func (c *custodyMember) Trying(string) ([]string, bool) { return nil, false }

// Drain is refused.
func (c *custodyMember) Drain(context.Context, string, string, lifecycle.Order) error {
	return errCustody
}

// Resume is refused.
func (c *custodyMember) Resume(context.Context, string, string) error { return errCustody }

// Remove is refused.
func (c *custodyMember) Remove(context.Context, string, string, lifecycle.Order) error {
	return errCustody
}

// ClearLatch lets the token log in once more. Without a latch it does nothing.
func (c *custodyMember) ClearLatch(ctx context.Context, actor, name string) error {
	if m := c.pool.Stat().Members; len(m) != 1 || m[0].State != pool.Latched {
		return nil
	}
	if err := lifecycle.LatchMember(ctx, c.store, actor, custodyPool, c.record.Name, ""); err != nil {
		return err
	}
	c.log.InfoContext(ctx, "latch cleared", "actor", actor, "pool", custodyPool, "member", name)
	c.vouched.Store(true)
	return c.pool.ClearLatch(name)
}

// Stat returns the statistics of the custody token's pool.
func (c *custodyMember) Stat() pool.Stat { return c.pool.Stat() }
