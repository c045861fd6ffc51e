// Package pool runs cryptographic operations on whichever of several tokens is
// able: it queues, balances, fails over, loads wrapped keys on demand and takes
// members in and out while traffic flows. docs/design/pool.md says what it promises.
package pool

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// Pool is a set of members. It is safe for concurrent use.
type Pool struct {
	cfg     Config
	budget  *budget
	doubts  *budget // of second opinions about a caller's blame
	members atomic.Pointer[[]*member]

	mu      sync.Mutex // serialises changes of the set
	closed  bool
	closing chan struct{}
	joined  chan struct{} // closed and replaced whenever a member becomes active
	joinMu  sync.Mutex
	jobs    sync.Pool // of *job

	operations, retries, overloaded atomic.Uint64
	wondered                        atomic.Int64 // UnixNano of when somebody asked last whether the pool is ready
	gauges                          func() error // unregisters the pool's observable instruments
}

// New returns a pool without members. Close it.
func New(cfg Config) (*Pool, error) {
	if err := key.CheckName(cfg.Name); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.OpTimeout, 10*time.Second)
	setDefault(&cfg.BulkTimeout, max(time.Minute, cfg.OpTimeout))
	setDefault(&cfg.JoinTimeout, time.Minute)
	setDefault(&cfg.CanaryEvery, 5*time.Second)
	setDefault(&cfg.RestartAfter, time.Minute)
	setDefault(&cfg.SlowStart, 2*time.Second)
	setDefault(&cfg.RetryRatio, 0.2)
	setDefault(&cfg.Attempts, 3)
	if cfg.CanaryEvery > readyFor {
		return nil, fmt.Errorf("pool %s: a canary every %s is too seldom, readiness promises at most %s", cfg.Name, cfg.CanaryEvery, readyFor)
	}
	p := &Pool{cfg: cfg, budget: newBudget(cfg.RetryRatio), doubts: newBudget(cfg.RetryRatio), closing: make(chan struct{}), joined: make(chan struct{})}
	p.members.Store(&[]*member{})
	gauges, err := p.observe()
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	p.gauges = gauges
	return p, nil
}

func setDefault[T int | float64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Has reports whether every able member has mechanism m; false when no member is able.
func (p *Pool) Has(m hsm.MechanismType) bool {
	any := false
	for _, o := range *p.members.Load() {
		if g := o.gen.Load(); g != nil {
			if !g.token.Info().Has(m) {
				return false
			}
			any = true
		}
	}
	return any
}

// OAEPHashes returns the hashes every open member can use with RSA OAEP, strongest first.
func (p *Pool) OAEPHashes() []hsm.Hash {
	var common []hsm.Hash
	first := true
	for _, o := range *p.members.Load() {
		g := o.gen.Load()
		if g == nil {
			continue
		}
		has := g.token.Info().OAEPHashes
		if first {
			common, first = append(common, has...), false
			continue
		}
		kept := common[:0]
		for _, h := range common {
			for _, x := range has {
				if h == x {
					kept = append(kept, h)
				}
			}
		}
		common = kept
	}
	return common
}

// Stat returns a snapshot.
func (p *Pool) Stat() Stat {
	s := Stat{Pool: p.cfg.Name, Members: []MemberStat{}, Ready: p.ready(), Operations: p.operations.Load(), Retries: p.retries.Load(), Overloaded: p.overloaded.Load()}
	for _, m := range *p.members.Load() {
		s.Members = append(s.Members, m.stat())
	}
	return s
}
