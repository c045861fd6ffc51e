package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// ManagerConfig configures a Manager.
type ManagerConfig struct {
	Store   Store
	Custody *Custody // nil: keys cannot be made
	Log     *slog.Logger
}

// Manager carries out what operators order. It is safe for concurrent use. Every command names
// its actor, the person who gave it.
type Manager struct {
	store   Store
	custody *Custody
	log     *slog.Logger
	// making serialises generation: two rotations of one key at once would be two versions where one was wanted.
	making sync.Mutex
}

// NewManager returns a Manager.
func NewManager(cfg ManagerConfig) *Manager {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{store: cfg.Store, custody: cfg.Custody, log: cfg.Log}
}

// KeyRequest describes a key to be made.
type KeyRequest struct {
	Name      string        `json:"name"`
	Algorithm key.Algorithm `json:"algorithm"`
	Usages    key.Usage     `json:"usages,omitempty"` // default: the algorithm's
	Pool      string        `json:"pool,omitempty"`   // default: "default"
}

// CreateKey makes a key with a first version that is active. The version is
// recorded before it is generated; if generation fails, the same request once
// more goes on where the first one stopped.
func (m *Manager) CreateKey(ctx context.Context, actor string, r KeyRequest) (*key.Key, error) {
	if err := key.CheckName(r.Name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	row, err := r.Algorithm.Info()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.Usages == 0 {
		r.Usages = row.Default
	}
	if extra := r.Usages &^ row.Allowed; extra != 0 {
		return nil, fmt.Errorf("%w: a key of %s cannot be for %s, only for %s", ErrInvalid, r.Algorithm, extra, row.Allowed)
	}
	if r.Pool == "" {
		r.Pool = "default"
	}
	if m.custody == nil {
		return nil, ErrNoCustody
	}
	m.making.Lock()
	defer m.making.Unlock()
	now := time.Now().UTC()
	k := key.Key{ID: key.NewID(), Name: r.Name, Algorithm: r.Algorithm, Usages: r.Usages, Pool: r.Pool, Created: now}
	err = m.store.Update(ctx, func(tx Tx) error {
		if _, err := tx.KEK(KEKPool, r.Pool); err != nil {
			return fmt.Errorf("%w: there is no pool %q", ErrInvalid, r.Pool)
		}
		if old, err := tx.Key(r.Name); err == nil {
			if unfinished(old) && old.Algorithm == r.Algorithm && old.Usages == r.Usages && old.Pool == r.Pool {
				return nil // a first try that did not finish
			}
			return fmt.Errorf("key %s %w", r.Name, ErrExists)
		} else if !errors.Is(err, key.ErrNotFound) {
			return err
		}
		if err := tx.InsertKey(k); err != nil {
			return err
		}
		who := by(ctx, actor)
		if err := tx.Append(&audit.Entry{Actor: who, Action: audit.KeyCreated, Object: keyObject(&k), Details: audit.Details{Algorithm: k.Algorithm, Usages: k.Usages, Pool: audit.Name(k.Pool)}}); err != nil {
			return err
		}
		return insertVersion(tx, who, &k, 1, now)
	})
	if err != nil {
		return nil, err
	}
	out, err := m.activateNewest(ctx, actor, r.Name)
	if err == nil {
		m.log.InfoContext(ctx, "key created", "actor", actor, "key", r.Name, "algorithm", r.Algorithm, "pool", r.Pool)
	}
	return out, err
}

// insertVersion records a version that is yet to be generated.
func insertVersion(tx Tx, who audit.Actor, k *key.Key, number uint32, now time.Time) error {
	v := VersionRow{ID: key.NewID(), KeyID: k.ID, Number: number, State: key.PreActive, Created: now}
	if err := tx.InsertVersion(v); err != nil {
		return err
	}
	return tx.Append(&audit.Entry{Actor: who, Action: audit.VersionInserted, Object: audit.VersionObject(&key.Version{Name: k.Name, Number: number, ID: v.ID})})
}

// unfinished reports whether k was recorded and never generated.
func unfinished(k *key.Key) bool {
	return k.Primary == 0 && len(k.Versions) == 1 && k.Versions[0].State == key.PreActive
}

// Rotate gives a key a new version, which becomes the primary one; the old primary version is deactivated and goes on to
// open what it protected. A rotation that did not finish is finished by the next one.
func (m *Manager) Rotate(ctx context.Context, actor, name string) (*key.Key, error) {
	if m.custody == nil {
		return nil, ErrNoCustody
	}
	m.making.Lock()
	defer m.making.Unlock()
	err := m.store.Update(ctx, func(tx Tx) error {
		k, err := tx.Key(name)
		if err != nil {
			return err
		}
		last := k.Versions[len(k.Versions)-1]
		if last.State == key.PreActive {
			return nil
		}
		return insertVersion(tx, by(ctx, actor), k, last.Number+1, time.Now().UTC())
	})
	if err != nil {
		return nil, err
	}
	k, err := m.activateNewest(ctx, actor, name)
	if err == nil {
		m.log.InfoContext(ctx, "key rotated", "actor", actor, "key", name, "version", k.Primary)
	}
	return k, err
}

// activateNewest generates the pre-active newest version of a key and makes it the primary one. The caller holds making.
func (m *Manager) activateNewest(ctx context.Context, actor, name string) (*key.Key, error) {
	var k *key.Key
	if err := m.store.View(ctx, func(tx Tx) (err error) { k, err = tx.Key(name); return err }); err != nil {
		return nil, err
	}
	v := k.Versions[len(k.Versions)-1]
	mat, err := m.custody.Generate(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("generating %s: %w; it stays pre-active, and the same command goes on with it", v.Ref(), err)
	}
	err = m.store.Update(ctx, func(tx Tx) error {
		if err := activate(tx, by(ctx, actor), v, mat, time.Now().UTC()); err != nil {
			return err
		}
		k, err = tx.Key(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// activate gives v its material, and the place of the primary version so far. Generation took a while: v may have been
// finished by another process that shares the store, and what it has protected since must still open, so
// material that is there is never replaced.
func activate(tx Tx, who audit.Actor, v *key.Version, mat Material, now time.Time) error {
	k, err := tx.Key(v.Name)
	if err != nil {
		return err
	}
	var current *key.Version
	for _, x := range k.Versions {
		if x.ID == v.ID {
			current = x
		}
	}
	if current == nil || current.State != key.PreActive {
		return fmt.Errorf("%w: %s was changed by somebody else while it was generated", key.ErrState, v.Ref())
	}
	if err := tx.SetMaterial(v.ID, mat); err != nil {
		return err
	}
	made := &audit.Entry{Actor: who, Action: audit.VersionGenerated, Object: audit.VersionObject(v)}
	if mat.Public != nil {
		made.Details.Public = audit.HashOf(mat.Public)
	}
	if err := tx.Append(made); err != nil {
		return err
	}
	if _, err := setState(tx, who, current, key.Activate, now); err != nil {
		return err
	}
	for _, old := range k.Versions {
		// A suspended one stays suspended: a rotation must not make it open things again.
		if old.Number != k.Primary || old.State != key.Active {
			continue
		}
		if _, err := setState(tx, who, old, key.Deactivate, now); err != nil {
			return err
		}
	}
	return setPrimary(tx, who, k, v.Number)
}

// setPrimary says which version of a key protects new data; 0 is none.
func setPrimary(tx Tx, who audit.Actor, k *key.Key, version uint32) error {
	if err := tx.SetPrimary(k.ID, version); err != nil {
		return err
	}
	return tx.Append(&audit.Entry{Actor: who, Action: audit.PrimarySet, Object: keyObject(k), Details: audit.Details{Primary: audit.Number(version)}})
}

// Change moves one version to another state: Suspend disables it, Resume
// enables it again unless another version has become the primary one, Destroy erases its wrapped material and leaves the
// tombstone. Version 0 is the primary one.
func (m *Manager) Change(ctx context.Context, actor string, r key.Ref, e key.Event) (*key.Key, error) {
	if e == key.Activate {
		return nil, fmt.Errorf("%w: a version is activated by the rotation that makes it", ErrInvalid)
	}
	var k *key.Key
	err := m.store.Update(ctx, func(tx Tx) error {
		v, err := tx.Version(r)
		if err != nil {
			return err
		}
		if k, err = tx.Key(v.Name); err != nil {
			return err
		}
		if e == key.Resume && v.State == key.Suspended && v.Number != k.Primary {
			return fmt.Errorf("%w: %s was suspended and the key rotated since, so that it is not primary any more: deactivate it, and it opens what it protected", key.ErrState, v.Ref())
		}
		who := by(ctx, actor)
		next, err := setState(tx, who, v, e, time.Now().UTC())
		if err != nil {
			return err
		}
		if (next == key.Destroyed || next == key.DestroyedCompromised) && v.State != key.Destroyed {
			if err := tx.EraseMaterial(v.ID); err != nil {
				return err
			}
			if err := tx.Append(&audit.Entry{Actor: who, Action: audit.MaterialErased, Object: audit.VersionObject(v)}); err != nil {
				return err
			}
		}
		k, err = tx.Key(v.Name)
		if err != nil {
			return err
		}
		// A suspended primary stays the primary one, so that resuming it undoes everything; any other end leaves none.
		if k.Primary == v.Number && next != key.Active && next != key.Suspended {
			if err := setPrimary(tx, who, k, 0); err != nil {
				return err
			}
			k.Primary = 0
		}
		return nil
	})
	if err == nil {
		m.log.InfoContext(ctx, "key version changed", "actor", actor, "key", r.String(), "event", e.String())
	}
	return k, err
}

// Keys returns up to limit keys whose names come after after, in the order of their names.
func (m *Manager) Keys(ctx context.Context, after string, limit int) (out []*key.Key, err error) {
	err = m.store.View(ctx, func(tx Tx) error { out, err = tx.Keys(after, limit); return err })
	return out, err
}

// Key returns one key with its versions.
func (m *Manager) Key(ctx context.Context, name string) (out *key.Key, err error) {
	err = m.store.View(ctx, func(tx Tx) error { out, err = tx.Key(name); return err })
	return out, err
}
