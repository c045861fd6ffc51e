package adminapi

import (
	"fmt"
	"maps"
	"slices"

	"keyway/lifecycle"
	"keyway/pool"
)

// MemberList holds the statistics of every pool, by name.
type MemberList struct {
	Pools []pool.Stat `json:"pools"`
}

func (a *API) listMembers(c *call) (any, error) {
	names := slices.Sorted(maps.Keys(a.cfg.Pools))
	if p := c.r.URL.Query().Get("pool"); p != "" {
		if _, err := a.pool(p); err != nil {
			return nil, err
		}
		names = []string{p}
	}
	list := MemberList{Pools: []pool.Stat{}}
	for _, n := range names {
		list.Pools = append(list.Pools, a.cfg.Pools[n].Stat())
	}
	return list, nil
}

// pool returns the members of the pool called name, "" being the default one.
func (a *API) pool(name string) (Members, error) {
	if name == "" {
		name = a.cfg.DefaultPool
	}
	m, ok := a.cfg.Pools[name]
	if !ok {
		return nil, problem(kindNotFound, fmt.Sprintf("there is no pool %q", name))
	}
	return m, nil
}

func (a *API) addMember(c *call) (any, error) {
	var r lifecycle.MemberRecord
	if err := c.decode(&r, false); err != nil {
		return nil, err
	}
	if r.Latched != "" || r.Drained {
		return nil, problem(kindMalformed, "latched and drained are not the sender's to say")
	}
	m, err := a.pool(r.Pool)
	if err != nil {
		return nil, err
	}
	if err := m.Add(c.ctx, c.actor, r); err != nil {
		return nil, err
	}
	stat, err := memberStat(m, r.Name)
	return created{stat}, err
}

// member returns the handler of a command to one member.
func (a *API) member(f func(*call, Members, string) error) handler {
	return func(c *call) (any, error) {
		m, err := a.pool(c.r.URL.Query().Get("pool"))
		if err != nil {
			return nil, err
		}
		name := c.r.PathValue("name")
		if _, err := memberStat(m, name); err != nil {
			return nil, err
		}
		if err := f(c, m, name); err != nil {
			return nil, err
		}
		if stat, err := memberStat(m, name); err == nil {
			return stat, nil
		}
		return nil, nil // it was removed
	}
}

func memberStat(m Members, name string) (pool.MemberStat, error) {
	s := m.Stat()
	for _, x := range s.Members {
		if x.Name == name {
			return x, nil
		}
	}
	return pool.MemberStat{}, problem(kindNotFound, fmt.Sprintf("pool %s has no member %q", s.Pool, name))
}
