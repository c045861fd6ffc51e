//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"keyway/loadtest/faulthsm"
	"keyway/loadtest/rig"
	"keyway/pool"
)

// Bounds of the handle cache that is much smaller than the number of keys.
const (
	fewHandles = 64
	// hotShare is which part of the operations are with one key.
	hotShare = 0.05
	// canaryObject is the pool's own object on a token that can make one.
	canaryObject = 1
	// zipfS is the exponent of the skewed choice: of 10,000 keys the 64 most popular get about a third of the operations.
	zipfS = 1.01
)

// handlesRow is what one way of choosing among many keys gave.
type handlesRow struct {
	Token    string `json:"token"`
	Handles  int    `json:"handles"`
	Sessions int    `json:"sessions"`
	Choice   string `json:"choice"`
	Keys     int    `json:"keys"`

	Rate  float64 `json:"rate"`
	Loads float64 `json:"loads_per_operation"`
	// Objects is the most session objects that were seen on the token, Allowed how many there may be.
	Objects int           `json:"objects"`
	Allowed int           `json:"allowed"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	// HotP99 is that of the one key that gets hotShare of the operations.
	HotP99 time.Duration `json:"hot_p99_ns"`
}

// handlesFigure is what a cache of handles costs that is much smaller than the number of keys in use.
type handlesFigure struct {
	Rows []handlesRow `json:"rows"`
}

// manyKeysToken is a pool of one member, with keys that it can use, and a look at the objects on its token.
type manyKeysToken struct {
	pool *pool.Pool
	key  func(i int) *pool.Key
	ask  func(context.Context, *pool.Key) ([]byte, error)
	// objects returns the most session objects since it was asked last.
	objects func(context.Context) (int, error)
	close   func() error
}

func runHandles(ctx context.Context, s *scale) (result, error) {
	f := &handlesFigure{}
	for _, r := range []handlesRow{
		{Token: "2 ms in process", Handles: s.keys, Sessions: 16, Choice: "uniform"},
		{Token: "2 ms in process", Handles: fewHandles, Sessions: 16, Choice: "uniform"},
		{Token: "2 ms in process", Handles: fewHandles, Sessions: 16, Choice: "zipf"},
		{Token: "2 ms in process", Handles: 8, Sessions: 16, Choice: "uniform"},
		{Token: "SoftHSM, worker", Handles: s.keys, Sessions: 16, Choice: "uniform"},
		{Token: "SoftHSM, worker", Handles: fewHandles, Sessions: 16, Choice: "uniform"},
		{Token: "SoftHSM, worker", Handles: fewHandles, Sessions: 16, Choice: "zipf"},
		{Token: "SoftHSM, worker", Handles: 8, Sessions: 16, Choice: "uniform"},
	} {
		title := fmt.Sprintf("%s, %d handles, %s", r.Token, r.Handles, r.Choice)
		if !s.wants(title) {
			continue
		}
		r.Keys = s.keys
		if err := s.thrash(ctx, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", title, err)
		}
		f.Rows = append(f.Rows, r)
		s.note("  %s: %s/s, %.2f loads each, p99 %s, %d objects", title, thousands(r.Rate), r.Loads, micros(r.P99), r.Objects)
	}
	return f, nil
}

// thrash fills in what r's choice among many keys gives.
func (s *scale) thrash(ctx context.Context, r *handlesRow) (err error) {
	open := s.softManyKeys
	if r.Token == "2 ms in process" {
		open = s.timedManyKeys
	}
	t, err := open(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	const callers = 64
	type caller struct {
		hot  histogram
		rand *rand.Rand
		zipf *rand.Zipf
	}
	all := make([]caller, callers)
	for i := range all {
		c := &all[i]
		c.rand = rand.New(rand.NewPCG(uint64(i), 1))
		c.zipf = rand.NewZipf(c.rand, zipfS, 1, uint64(r.Keys-1))
	}
	do := func(ctx context.Context, i int) ([]byte, error) {
		c := &all[i]
		if c.rand.Float64() < hotShare {
			begun := time.Now()
			out, err := t.ask(ctx, t.key(0))
			c.hot.add(time.Since(begun))
			return out, err
		}
		n := int(c.rand.Int64N(int64(r.Keys)))
		if r.Choice == "zipf" {
			n = int(c.zipf.Uint64())
		}
		return t.ask(ctx, t.key(n))
	}
	if r.Handles >= r.Keys { // every key once, so that none is cold
		if err := loadAll(ctx, t, r.Keys); err != nil {
			return err
		}
	}
	if err := drive(ctx, &cell{}, callers, s.duration/5, do); err != nil {
		return err
	}
	for i := range all {
		all[i].hot = histogram{}
	}
	before := t.pool.Stat().Members[0]
	m := meter{workers: workersOf(t.pool)}
	c, err := s.measure(&m, func(c *cell) error { return drive(ctx, c, callers, s.duration, do) })
	if err != nil {
		return err
	}
	after := t.pool.Stat().Members[0]
	r.Rate, r.P50, r.P99 = c.rate(), c.times.percentile(50), c.times.percentile(99)
	r.Loads = float64(after.Loads-before.Loads) / float64(max(1, c.ops))
	var hot histogram
	for i := range all {
		hot.merge(&all[i].hot)
	}
	r.HotP99 = hot.percentile(99)
	if r.Objects, err = t.objects(ctx); err != nil {
		return err
	}
	if r.Objects > r.Allowed {
		return fmt.Errorf("%d objects were on the token, %d are allowed", r.Objects, r.Allowed)
	}
	return nil
}

// loadAll uses every key once.
func loadAll(ctx context.Context, t *manyKeysToken, keys int) error {
	work := make(chan int)
	errs := make(chan error, 16)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				if _, err := t.ask(ctx, t.key(i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var err error
	for i := 0; i < keys && err == nil; i++ {
		select {
		case work <- i:
		case err = <-errs:
		}
	}
	close(work)
	wg.Wait()
	return err
}

// timedManyKeys is a token in memory of which every call takes 2 ms: loading a key in the place of another takes three calls.
func (s *scale) timedManyKeys(ctx context.Context, r *handlesRow) (*manyKeysToken, error) {
	r.Allowed = r.Handles
	token := &timed{mean: serviceTime}
	p, err := timedPool(ctx, []*timed{token}, pool.MemberConfig{Sessions: r.Sessions, Handles: r.Handles})
	if err != nil {
		return nil, err
	}
	keys := make([]*pool.Key, r.Keys)
	for i := range keys {
		keys[i] = timedKey(i)
	}
	return &manyKeysToken{
		pool: p, key: func(i int) *pool.Key { return keys[i] }, close: p.Close,
		ask:     func(ctx context.Context, k *pool.Key) ([]byte, error) { return askTimed(ctx, p, k) },
		objects: func(context.Context) (int, error) { return int(token.peak.Load()), nil },
	}, nil
}

// softManyKeys is SoftHSM in a worker. A module before it refuses every object beyond those that are allowed, so one too
// many fails the run.
func (s *scale) softManyKeys(ctx context.Context, r *handlesRow) (*manyKeysToken, error) {
	r.Allowed = r.Handles + canaryObject
	d, err := s.newDevice(ctx, faulthsm.Objects{Max: r.Allowed})
	if err != nil {
		return nil, err
	}
	w, err := newWorkshop(filepath.Join(s.dir, d.Record.Name, "maker"), "")
	if err != nil {
		return nil, err
	}
	model, right, err := s.macKey(ctx, w)
	if err != nil {
		return nil, err
	}
	p, err := s.devicePool(ctx, w, []*rig.Token{d}, pool.MemberConfig{Sessions: r.Sessions, Handles: r.Handles})
	if err != nil {
		return nil, err
	}
	keys := make([]*pool.Key, r.Keys) // of the same material, each under an ID of its own: to pool and token they are as many keys
	for i := range keys {
		k := *model
		copy(k.ID[:], fmt.Sprintf("many-%011d", i))
		keys[i] = &k
	}
	peak := watchObjects(d, p.Stat().Members[0].PID)
	return &manyKeysToken{
		pool: p, key: func(i int) *pool.Key { return keys[i] },
		ask:     func(ctx context.Context, k *pool.Key) ([]byte, error) { return askMAC(ctx, p, k, right) },
		objects: func(context.Context) (int, error) { return peak() },
		close: func() error {
			_, err := peak()
			return errors.Join(err, p.Close())
		},
	}, nil
}

// watchObjects looks at the number of session objects of a worker's now and then; the function it returns ends that, once, and
// tells the most that were seen.
func watchObjects(d *rig.Token, pid int) func() (int, error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	most, failed := 0, error(nil)
	go func() {
		defer close(done)
		c, err := d.Module.Conn(ctx, pid)
		if err != nil {
			failed = err
			return
		}
		defer func() { _ = c.Close() }()
		for {
			s, err := c.Status(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				failed = err
				return
			}
			most = max(most, s.SessionObjects)
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() (int, error) {
		cancel()
		<-done
		return most, failed
	}
}

func (f *handlesFigure) table(w io.Writer) {
	fmt.Fprintf(w, "| token | handles | keys | choice | operations/s | of all loaded | loads for each | p50 | p99 | p99 of a hot key | objects on the token, at most |\n|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|\n")
	whole := map[string]float64{}
	for _, r := range f.Rows {
		if r.Handles >= r.Keys {
			whole[r.Token] = r.Rate
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %.2f | %s | %s | %s | %s of %s |\n", r.Token, thousands(float64(r.Handles)), thousands(float64(r.Keys)), r.Choice,
			thousands(r.Rate), part(r.Rate, whole[r.Token]), r.Loads, micros(r.P50), micros(r.P99), micros(r.HotP99), thousands(float64(r.Objects)), thousands(float64(r.Allowed)))
	}
}
