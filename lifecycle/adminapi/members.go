package adminapi

import (
	"context"
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

// MemberRequest is a member to be added. Partial: its token may lack mechanisms that keys of the pool need.
type MemberRequest struct {
	lifecycle.MemberRecord
	Partial bool `json:"partial,omitempty"`
}

// MemberAnswer is a member with what was found when its token was tried, in sentences for people. While it is tried, which is
// before it is a member, its state is StateTrying.
type MemberAnswer struct {
	pool.MemberStat
	Trial []string `json:"trial,omitempty"`
}

// StateTrying is the state of what is no member yet: its token is being tried.
const StateTrying pool.State = "trying"

func (a *API) addMember(c *call) (any, error) {
	var r MemberRequest
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
	defer c.outlive()()
	added, err := m.Add(c.ctx, c.actor, r.MemberRecord, lifecycle.AddOptions{Partial: r.Partial, Force: c.flag("force")})
	if err != nil {
		return nil, err
	}
	stat, err := memberStat(m, r.Name)
	if err != nil && added.There { // stored by another gateway a moment ago, and not yet followed here
		stat, err = pool.MemberStat{Name: r.Name, State: pool.Joining}, nil
	}
	answer := MemberAnswer{stat, added.Found}
	if added.There {
		return answer, err
	}
	return created{answer}, err
}

func (a *API) showMember(c *call) (any, error) {
	m, err := a.pool(c.r.URL.Query().Get("pool"))
	if err != nil {
		return nil, err
	}
	name := c.r.PathValue("name")
	if found, trying := m.Trying(name); trying {
		return MemberAnswer{pool.MemberStat{Name: name, State: StateTrying}, found}, nil
	}
	stat, err := memberStat(m, name)
	return MemberAnswer{MemberStat: stat}, err
}

// order is what the query says about an order to a member.
func (c *call) order() lifecycle.Order {
	q := c.r.URL.Query()
	return lifecycle.Order{Force: c.flag("force"), NoWait: q.Has("wait") && !c.flag("wait"), ForgetToken: c.flag("forget_token")}
}

// outlive lets the call's order go on when its sender leaves: half an order is worse than either. Its time stays bounded.
func (c *call) outlive() (done func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), maxTime)
	c.ctx = ctx
	return cancel
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
		defer c.outlive()()
		if err := f(c, m, name); err != nil {
			return nil, err
		}
		if stat, err := memberStat(m, name); err == nil {
			return stat, nil
		}
		return nil, nil // it was removed
	}
}

// removeMember also forgets the token of a member that is gone already.
func (a *API) removeMember(c *call) (any, error) {
	remove := func(c *call, m Members, n string) error { return m.Remove(c.ctx, c.actor, n, c.order()) }
	if !c.flag("forget_token") {
		return a.member(remove)(c)
	}
	m, err := a.pool(c.r.URL.Query().Get("pool"))
	if err != nil {
		return nil, err
	}
	defer c.outlive()()
	name := c.r.PathValue("name")
	if err := remove(c, m, name); err != nil {
		return nil, err
	}
	if stat, err := memberStat(m, name); err == nil {
		return stat, nil
	}
	return nil, nil
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
