package gateway

import (
	"context"
	"sync"

	"keyway/lifecycle/key"
)

// Bounds of the blocks in which uses are set aside. They double with demand, so that a version used once
// wastes little when its count is forgotten, and a busy one asks the store seldom.
const (
	firstBlock = 1 << 10
	lastBlock  = 1 << 20
)

// useCounter counts the encryptions of AES-GCM versions against 2^32, in blocks that are set aside in the
// store before they are used: a crash wastes uses and never repeats any.
type useCounter struct {
	uses  Uses
	limit int

	mu   sync.Mutex
	left map[key.ID]*block
}

type block struct {
	mu   sync.Mutex // held while the store is asked
	left uint64
	next uint64
}

func newUseCounter(u Uses, limit int) *useCounter {
	return &useCounter{uses: u, limit: limit, left: map[key.ID]*block{}}
}

// take counts one use, or returns an error wrapping key.ErrState when there is none left.
func (c *useCounter) take(ctx context.Context, id key.ID) error {
	c.mu.Lock()
	b := c.left[id]
	if b == nil {
		for old := range c.left {
			if len(c.left) < c.limit {
				break
			}
			delete(c.left, old) // any will do: what it had left is wasted, not repeated
		}
		b = &block{next: firstBlock}
		c.left[id] = b
	}
	c.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		n, err := c.uses.Reserve(ctx, id, b.next)
		if err != nil {
			return err
		}
		b.left, b.next = n, min(2*b.next, lastBlock)
	}
	b.left--
	return nil
}
