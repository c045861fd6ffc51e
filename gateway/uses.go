package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keyway/lifecycle/key"
)

// Bounds of the blocks in which uses are set aside. They double with demand, so that a version used once
// wastes little when its count is forgotten, and a busy one asks the store seldom.
const (
	firstBlock = 1 << 10
	lastBlock  = 1 << 20
)

// useCounter counts the encryptions of AES-GCM versions against their limit, in blocks that are set aside in the
// store before they are used: a crash wastes uses and never repeats any.
type useCounter struct {
	uses  Uses
	limit int

	mu     sync.Mutex
	blocks map[key.ID]*block
}

// block is what is left of the uses set aside for a version; below 0 when more were asked for.
type block struct {
	left   atomic.Int64
	asking chan struct{} // holds one value while the store is asked; guards next
	next   uint64
}

func newUseCounter(u Uses, limit int) *useCounter {
	return &useCounter{uses: u, limit: limit, blocks: map[key.ID]*block{}}
}

func (c *useCounter) block(id key.ID) *block {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.blocks[id]
	if b == nil {
		for old := range c.blocks {
			if len(c.blocks) < c.limit {
				break
			}
			delete(c.blocks, old) // any will do: what it had left is wasted, not repeated
		}
		b = &block{next: firstBlock, asking: make(chan struct{}, 1)}
		c.blocks[id] = b
	}
	return b
}

// take counts one use. Its error wraps key.ErrState when there is none left.
func (c *useCounter) take(ctx context.Context, id key.ID) error {
	b := c.block(id)
	for b.left.Add(-1) < 0 {
		if err := c.refill(ctx, id, b); err != nil {
			return err
		}
	}
	return nil
}

// refill sets more uses aside, unless somebody else just did.
func (c *useCounter) refill(ctx context.Context, id key.ID, b *block) error {
	select {
	case b.asking <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.asking }()
	if b.left.Load() > 0 {
		return nil
	}
	n, err := c.uses.Reserve(ctx, id, b.next)
	switch {
	case err == nil && n == 0:
		return fmt.Errorf("%w: the version has no uses left; rotate the key", key.ErrState)
	case err == nil:
		b.next = min(2*b.next, lastBlock)
		b.left.Store(int64(n))
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, key.ErrState), errors.Is(err, key.ErrNotFound):
		return err
	}
	return &Error{Kind: Unavailable, Detail: "uses of the key cannot be counted now, so nothing is encrypted", RetryAfter: time.Second, Cause: err}
}
