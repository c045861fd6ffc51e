package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keyway/lifecycle/audit"
)

// AddOptions are what an operator says with the order to add a member.
type AddOptions struct {
	// Partial: the token may lack mechanisms that keys of the pool need; other members do those.
	Partial bool
	// Force: the operator vouches for the PIN, so it is tried though the token refused it, or another, before.
	Force bool
}

// Added is what came of an order to add a member.
type Added struct {
	// There: the member was there already, with the same settings. Nothing was tried or changed.
	There bool
	// Found is what was found when the token was tried, in sentences for people.
	Found []string
}

// Add tries a member's token, and when it fits stores the member and adds it to the pool. It joins in the background; Stat tells
// how far it is. A token that does not fit is a *Misfit, and nothing was changed. A member of that name with other
// settings is an ErrExists.
func (m *Membership) Add(ctx context.Context, actor string, r MemberRecord, o AddOptions) (Added, error) {
	r.Pool = m.cfg.PoolName
	if err := r.Check(); err != nil {
		return Added{}, fmt.Errorf("%w: member %s: %w", ErrInvalid, r.Name, err)
	}
	select {
	case m.trying <- struct{}{}: // one at a time: no PIN is tried twice
		defer func() { <-m.trying }()
	case <-ctx.Done():
		return Added{}, fmt.Errorf("member %s: another member of pool %s is still being tried: %w", r.Name, r.Pool, ctx.Err())
	}
	if there, err := m.there(ctx, r); there || err != nil {
		return Added{There: there}, err
	}
	say, found := m.tells(r.Name)
	defer m.toldAll(r.Name)
	if err := m.try(ctx, r, o, say); err != nil {
		return Added{}, err
	}
	there, err := m.store(ctx, actor, r)
	if err == nil && !there {
		m.cfg.Log.InfoContext(ctx, "member added", "actor", actor, "pool", r.Pool, "member", r.Name, "found", strings.Join(found(), "; "))
	}
	return Added{There: there, Found: found()}, err
}

// there reports whether the store has the member with the same settings. With others it is an error.
func (m *Membership) there(ctx context.Context, r MemberRecord) (there bool, err error) {
	err = m.cfg.Store.View(ctx, func(tx Tx) error { there, err = stored(tx, r); return err })
	return there, err
}

func stored(tx Tx, r MemberRecord) (bool, error) {
	all, err := tx.Members(r.Pool)
	if err != nil {
		return false, err
	}
	for _, o := range all {
		if o.Name != r.Name {
			continue
		}
		if d := differences(o, r); len(d) > 0 {
			return false, fmt.Errorf("member %s of pool %s %w with other settings: %s; remove it first, or give the new one another name", r.Name, r.Pool, ErrExists, strings.Join(d, ", "))
		}
		return true, nil
	}
	return false, nil
}

// store stores a member that has been tried and adds it to the pool. Another gateway may have stored it, or its token, meanwhile.
func (m *Membership) store(ctx context.Context, actor string, r MemberRecord) (there bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	err = m.cfg.Store.Update(ctx, func(tx Tx) (err error) {
		if there, err = stored(tx, r); there || err != nil {
			return err
		}
		all, err := tx.AllMembers()
		if err != nil {
			return err
		}
		if bad := takenByRecord(r, all); bad != nil {
			bad.Member = r.Name
			return bad
		}
		return putMember(tx, by(ctx, actor), nil, &r)
	})
	if err != nil || there {
		return there, err
	}
	if err := m.add(r); err != nil {
		undo := m.cfg.Store.Update(ctx, func(tx Tx) error { return deleteMember(tx, audit.Actor{}, r.Pool, r.Name, "the pool does not take it") })
		return false, errors.Join(err, undo)
	}
	return false, nil
}

// tells begins to tell what is found while a member is tried, and returns how it is told and what was.
func (m *Membership) tells(name string) (say func(string, ...any), found func() []string) {
	say = func(format string, a ...any) {
		m.saidMu.Lock()
		defer m.saidMu.Unlock()
		m.said[name] = append(m.said[name], fmt.Sprintf(format, a...))
	}
	found = func() []string {
		f, _ := m.Trying(name)
		return f
	}
	m.saidMu.Lock()
	defer m.saidMu.Unlock()
	m.said[name] = []string{}
	return say, found
}

func (m *Membership) toldAll(name string) {
	m.saidMu.Lock()
	defer m.saidMu.Unlock()
	delete(m.said, name)
}

// Trying reports whether a member is being tried now, and what was found so far. The caller owns the slice.
func (m *Membership) Trying(name string) (found []string, trying bool) {
	m.saidMu.Lock()
	defer m.saidMu.Unlock()
	found, trying = m.said[name]
	return slices.Clone(found), trying
}
