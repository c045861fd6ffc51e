package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"golang.org/x/sync/singleflight"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// How long an answer of the catalogue is used without asking again, beside the epoch; loadTimeout is how long it
// may take to answer.
const (
	cacheTTL    = 30 * time.Second
	negativeTTL = time.Second
	loadTimeout = 10 * time.Second
)

// loaded is a version with what the pool needs to use it, made once. It is immutable.
type loaded struct {
	*key.Version
	pool *pool.Key
}

// entry is an answer of the catalogue, immutable: a version, a key with all its versions, or why there is none.
type entry struct {
	version *loaded
	key     *key.Key
	err     error
	epoch   uint64 // the catalogue's, before it was asked
	until   time.Time
}

// keyCache keeps versions. ristretto may forget what it was given and may show
// an old value for a moment; neither matters, since an entry of an older epoch
// is never used. Permission is not cached: it is asked for at every use.
type keyCache struct {
	next   Keys
	cache  *ristretto.Cache[string, *entry]
	flight singleflight.Group
	ctx    context.Context // ends with the cache
	cancel context.CancelFunc

	mu      sync.Mutex // guards closed, and wg against being added to after it
	closed  bool
	flights sync.WaitGroup
}

func newKeyCache(next Keys, size int64) (*keyCache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, *entry]{
		NumCounters: 10 * size, MaxCost: size, BufferItems: 64,
		IgnoreInternalCost: true, // costs are versions, not bytes
	})
	if err != nil {
		return nil, fmt.Errorf("key cache: %w", err)
	}
	k := &keyCache{next: next, cache: c}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k, nil
}

// close ends what is being loaded and waits for it.
func (c *keyCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.flights.Wait()
	c.cache.Close()
}

// version returns one version; Version 0 is the primary one.
func (c *keyCache) version(ctx context.Context, r key.Ref) (*loaded, error) {
	name := r.Name
	if r.Version != 0 {
		name += ":" + strconv.FormatUint(uint64(r.Version), 10) // no name has a colon
	}
	e, err := c.get(ctx, name, func(ctx context.Context) (e entry, err error) {
		v, err := c.next.Key(ctx, r)
		if err != nil {
			return e, err
		}
		e.version = &loaded{Version: v}
		if e.version.pool, err = poolKey(v); err != nil {
			err = &Error{Kind: Internal, Cause: err}
		}
		return e, err
	})
	if err != nil {
		return nil, err
	}
	return e.version, nil
}

// describe returns a key with all its versions.
func (c *keyCache) describe(ctx context.Context, name string) (*key.Key, error) {
	e, err := c.get(ctx, name+":", func(ctx context.Context) (e entry, err error) {
		e.key, err = c.next.Describe(ctx, name)
		return e, err
	})
	if err != nil {
		return nil, err
	}
	return e.key, nil
}

// get returns the entry called name, of the catalogue's present epoch, from the cache or by load. An entry that is only old
// is used while it is asked for again, and when nobody answers: the epoch says that it still holds, and Fresh that the
// epoch does. So a store that is down does not take the keys in use with it.
func (c *keyCache) get(ctx context.Context, name string, load func(context.Context) (entry, error)) (*entry, error) {
	if err := c.next.Fresh(); err != nil {
		return nil, err
	}
	epoch := c.next.Epoch()
	e, ok := c.cache.Get(name)
	known := ok && e.epoch == epoch
	if known && (e.err == nil || time.Now().Before(e.until)) {
		if !time.Now().Before(e.until) {
			c.fly(name, epoch, e, load)
		}
		return e, e.err
	}
	// One flight for all who want it. It is of their epoch, so that nobody gets what was read before a change; it does not
	// end because the first of them leaves, and none waits for it longer than it may.
	select {
	case r := <-c.fly(name, epoch, nil, load):
		if r.Err != nil {
			return nil, r.Err
		}
		e := r.Val.(*entry)
		return e, e.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fly loads an entry in the background, once at a time. old is what to keep for another while if that fails.
func (c *keyCache) fly(name string, epoch uint64, old *entry, load func(context.Context) (entry, error)) <-chan singleflight.Result {
	return c.flight.DoChan(name+"@"+strconv.FormatUint(epoch, 10), func() (v any, err error) {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, pool.ErrClosed
		}
		c.flights.Add(1)
		c.mu.Unlock()
		defer c.flights.Done()
		defer func() {
			if p := recover(); p != nil { // in a goroutine of its own nobody else would
				v, err = nil, panicked(p)
			}
		}()
		ctx, cancel := context.WithTimeout(c.ctx, loadTimeout)
		defer cancel()
		now := time.Now()
		e, err := load(ctx)
		e.epoch, e.until = epoch, now.Add(cacheTTL)
		switch {
		case err == nil:
		case errors.Is(err, key.ErrNotFound), errors.Is(err, key.ErrState), errors.Is(err, key.ErrGone):
			e = entry{err: err, epoch: epoch, until: now.Add(negativeTTL)}
		case old != nil:
			e = *old
			e.until = time.Now().Add(negativeTTL)
		case errors.Is(err, key.ErrStale), errors.As(err, new(*Error)):
			return nil, err
		default:
			return nil, &Error{Kind: Unavailable, Detail: "the key cannot be looked up now", RetryAfter: time.Second, Cause: err}
		}
		cost := int64(1)
		if e.key != nil {
			cost += int64(len(e.key.Versions))
		}
		c.cache.Set(name, &e, cost)
		return &e, nil
	})
}

// poolKey is what the pool needs of a version.
func poolKey(v *key.Version) (*pool.Key, error) {
	s, err := hsm.SpecFor(v.Algorithm, v.Usages)
	if err != nil {
		return nil, err
	}
	k := &pool.Key{ID: v.ID, Spec: s, Blob: v.Blob, Wrap: hsm.Mechanism{Type: hsm.MechanismType(v.BlobMechanism)}}
	if v.Public != nil {
		if k.Public, err = x509.ParsePKIXPublicKey(v.Public); err != nil {
			return nil, fmt.Errorf("public key of %s: %w", v.Ref(), err)
		}
	}
	return k, nil
}
