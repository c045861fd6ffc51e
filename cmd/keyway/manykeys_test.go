package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyway/hsm/pkcs11"
	"keyway/lifecycle"
	"keyway/lifecycle/key"
	"keyway/lifecycle/sqlstore"
	"keyway/lifecycle/storetest"
)

// Bounds that the node of TestManyKeys is given.
const (
	manyCache   = 1000 // versions the gateway keeps
	manyHandles = 200  // keys loaded on each member
)

// A store with many more keys than anything may keep in memory: pages of the list, first requests for cold keys, and what
// the processes hold after a long walk over the keys. 20,000 keys on embedded tokens here; make million sets KEYWAY_KEYS, and
// takes SoftHSM where it is installed.
func TestManyKeys(t *testing.T) {
	if testing.Short() {
		t.Skip("filling a store and walking over it takes seconds: not with -short")
	}
	n, touched, kind := 20_000, 6_000, onEmbedded
	if s := os.Getenv("KEYWAY_KEYS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
		touched = 100_000
		if _, err := pkcs11.FindModule("softhsm"); err == nil {
			kind = onSoftHSM
		}
	}
	dir := newDevDir(t, kind)
	begun := time.Now()
	fill(t, filepath.Join(dir, "keyway.db"), n)
	st, err := os.Stat(filepath.Join(dir, "keyway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d keys were put into the store in %s: %d MB", n, time.Since(begun).Round(time.Millisecond), st.Size()>>20)

	config := nodeConfig(t, kind, dir, plainNode+fmt.Sprintf("\nlimits: {cache_keys: %d}\n", manyCache))
	text, err := os.ReadFile(config)
	if err == nil {
		err = os.WriteFile(config, regexp.MustCompile(`(?m)^(      - \{name: m\d, )`).ReplaceAll(text, fmt.Appendf(nil, "${1}handles: %d, ", manyHandles)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	r := startServe(t, dir, config)
	r.readyz()
	t.Logf("the node, on %s, was ready after %s", kind, time.Since(begun).Round(time.Millisecond))

	pages := r.walkPages(n + len(demoKeys))
	t.Logf("%d pages of 1,000 keys: %s", len(pages), spread(pages))

	// First requests, one at a time, for keys that nothing has heard of.
	order := rand.Perm(n)
	var cold []time.Duration
	for _, i := range order[:300] {
		begun := time.Now()
		r.ok(manyName(i)+"/wrap", manyWrap)
		cold = append(cold, time.Since(begun))
	}
	t.Logf("300 first requests for cold keys: %s", spread(cold))

	// And what a walk over many more leaves behind.
	walk := func(some []int) {
		t.Helper()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < int64(len(some)); i = next.Add(1) - 1 {
					res, b, err := r.send(http.MethodPost, "/api/v1/keys/"+manyName(some[i])+"/wrap", manyWrap)
					if err != nil || res.StatusCode != 200 {
						t.Errorf("%s: %v %s", manyName(some[i]), err, b)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	rest := order[300:]
	first, last := 2*manyCache, min(len(rest), touched)
	walk(rest[:first])
	before := r.memory(t)
	begun = time.Now()
	walk(rest[first:last])
	t.Logf("%d more cold keys by 8 clients in %s", last-first, time.Since(begun).Round(time.Millisecond))
	after := r.memory(t)
	t.Logf("heap of the node %.1f MB after %d keys, %.1f MB after %d", float64(before)/(1<<20), first+300, float64(after)/(1<<20), last+300)
	// A version in memory, with the key that the pool gets, takes more than a kilobyte: keeping them all would show. A heap
	// breathes by a mebibyte whatever is kept.
	if allowed := int64(last-first)*400 + 1<<20; after-before > allowed {
		t.Errorf("the heap grew by %d bytes over %d keys of which %d may be kept", after-before, last-first, manyCache)
	}
	loads := 0
	for _, m := range metricOf(t, r, "pool_handle_loads_total") {
		loads += m
	}
	if loads < last {
		t.Errorf("%d keys were loaded, want at least %d: they were not cold", loads, last)
	}
	for member, handles := range metricOf(t, r, "pool_handles") {
		if handles > manyHandles+16 { // those in use may exceed it, one for each session
			t.Errorf("member %s holds %d keys, %d are allowed", member, handles, manyHandles)
		}
	}
}

const manyWrap = `{"plaintext_key":"MDEyMzQ1Njc4OWFiY2RlZg=="}`

func manyName(i int) string { return fmt.Sprintf("demo-many-%07d", i) }

// fill puts n keys into the store of a dev that does not run. They all have demo-wrap's material, each under IDs of its own: for
// store, cache and tokens they are n keys.
func fill(t *testing.T, path string, n int) {
	t.Helper()
	ctx := context.Background()
	s, err := sqlstore.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var model *key.Version
	if err := s.View(ctx, func(tx lifecycle.Tx) (err error) { model, err = tx.Version(key.Ref{Name: "demo-wrap"}); return err }); err != nil {
		t.Fatal(err)
	}
	m := lifecycle.Material{Master: model.Blob, Blob: model.Blob, Mechanism: model.BlobMechanism}
	const batch = 5000
	for from := 0; from < n; from += batch {
		err := s.Update(ctx, storetest.Noted(func(tx lifecycle.Tx) error {
			for i := from; i < min(n, from+batch); i++ {
				k := key.Key{ID: key.NewID(), Name: manyName(i), Algorithm: model.Algorithm, Usages: model.Usages, Pool: model.Pool, Primary: 1, Created: time.Now()}
				v := lifecycle.VersionRow{ID: key.NewID(), KeyID: k.ID, Number: 1, State: key.Active, Created: k.Created}
				if err := tx.InsertKey(k); err != nil {
					return err
				}
				if err := tx.InsertVersion(v); err != nil {
					return err
				}
				if err := tx.SetMaterial(v.ID, m); err != nil {
					return err
				}
			}
			return nil
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// walkPages reads the whole list and returns how long each page took. There must be want keys, in order.
func (r *running) walkPages(want int) (took []time.Duration) {
	r.t.Helper()
	token, err := os.ReadFile(filepath.Join(r.dir, "admin-token"))
	if err != nil {
		r.t.Fatal(err)
	}
	seen, after := 0, ""
	for {
		begun := time.Now()
		req, err := http.NewRequest(http.MethodGet, r.admin+"/admin/v1/keys?limit=1000&after="+after, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		res, err := r.http.Do(req)
		if err != nil {
			r.t.Fatal(err)
		}
		var page struct {
			Keys []struct{ Name string }
			Next string
		}
		err = json.NewDecoder(res.Body).Decode(&page)
		_ = res.Body.Close()
		took = append(took, time.Since(begun))
		if err != nil || res.StatusCode != 200 {
			r.t.Fatalf("%s %v", res.Status, err)
		}
		for _, k := range page.Keys {
			if k.Name <= after {
				r.t.Fatalf("%s comes after %s", k.Name, after)
			}
			after = k.Name
		}
		seen += len(page.Keys)
		if page.Next == "" {
			break
		}
	}
	if seen != want {
		r.t.Errorf("%d keys are listed, want %d", seen, want)
	}
	return took
}

// spread tells median, 99 % and maximum.
func spread(d []time.Duration) string {
	s := slices.Sorted(slices.Values(d))
	at := func(q float64) time.Duration {
		return s[min(len(s)-1, int(q*float64(len(s))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("median %s, 99 %% %s, longest %s", at(0.5), at(0.99), at(1))
}

// memory is what the node's heap holds, in bytes: the least that is seen over a while, since garbage comes and goes.
func (r *running) memory(t *testing.T) (least int64) {
	t.Helper()
	for range 10 {
		for range 10 { // work, so that garbage is collected
			r.ok(manyName(0)+"/wrap", manyWrap)
			_ = get(t, r.admin+"/metrics")
		}
		m := regexp.MustCompile(`(?m)^go_memstats_heap_alloc_bytes (\S+)$`).FindSubmatch(get(t, r.admin+"/metrics"))
		f, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		if b := int64(f); least == 0 || b < least {
			least = b
		}
	}
	return least
}

// metricOf returns the values of a metric of the default pool, by member.
func metricOf(t *testing.T, r *running, name string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^`+name+`\{hsm_member="([^"]+)",hsm_pool="default"[^}]*\} (\S+)$`).FindAllStringSubmatch(string(get(t, r.admin+"/metrics")), -1) {
		f, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		out[m[1]] = int(f)
	}
	if len(out) == 0 {
		t.Fatalf("/metrics has no %s", name)
	}
	return out
}
