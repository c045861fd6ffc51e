package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"golang.org/x/sync/singleflight"

	"keyway/hsm"
	"keyway/lifecycle/key"
	"keyway/pool"
)

// Bounds on how long an answer may be used without asking again, beside the epoch.
const (
	cacheTTL    = 30 * time.Second
	negativeTTL = time.Second
)

// loaded is a version with what the pool needs to use it, made once. It is immutable.
type loaded struct {
	*key.Version
	pool  *pool.Key
	err   error
	epoch uint64 // the catalogue's, before it was asked
	until time.Time
}

// keyCache keeps versions. ristretto may forget what it was given and may show
// an old value for a moment; neither matters, since an entry of an older epoch
// is never used. Permission is not cached: it is asked for at every use.
type keyCache struct {
	next   Keys
	cache  *ristretto.Cache[string, *loaded]
	flight singleflight.Group
}

func newKeyCache(next Keys, size int64) (*keyCache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, *loaded]{NumCounters: 10 * size, MaxCost: size, BufferItems: 64})
	if err != nil {
		return nil, fmt.Errorf("key cache: %w", err)
	}
	return &keyCache{next: next, cache: c}, nil
}

func (c *keyCache) close() { c.cache.Close() }

// key returns a version, from the cache while it is of the catalogue's present epoch.
func (c *keyCache) key(ctx context.Context, r key.Ref) (*loaded, error) {
	if err := c.next.Fresh(); err != nil {
		return nil, err
	}
	name := r.Name
	if r.Version != 0 {
		name += ":" + strconv.FormatUint(uint64(r.Version), 10) // no name has a colon
	}
	epoch := c.next.Epoch()
	if e, ok := c.cache.Get(name); ok && e.epoch == epoch && time.Now().Before(e.until) {
		return e, e.err
	}
	// One flight for all who want it; it must not end because the first of them leaves.
	v, err, _ := c.flight.Do(name, func() (any, error) {
		return c.load(context.WithoutCancel(ctx), r, name)
	})
	if err != nil {
		return nil, err
	}
	e := v.(*loaded)
	return e, e.err
}

func (c *keyCache) load(ctx context.Context, r key.Ref, name string) (*loaded, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	e := &loaded{epoch: c.next.Epoch(), until: time.Now().Add(cacheTTL)}
	v, err := c.next.Key(ctx, r)
	switch {
	case errors.Is(err, key.ErrNotFound), errors.Is(err, key.ErrState):
		e.err, e.until = err, time.Now().Add(negativeTTL)
	case err != nil:
		return nil, err
	default:
		e.Version = v
		if e.pool, err = poolKey(v); err != nil {
			return nil, err
		}
	}
	c.cache.Set(name, e, 1)
	return e, nil
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
