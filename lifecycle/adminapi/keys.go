package adminapi

import (
	"fmt"
	"strconv"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// Bounds of a page of keys.
const (
	defaultPage = 100
	maxPage     = 1000
)

// KeyPage is a page of keys in the order of their names. Next, when not empty, is what to pass as after for the next page.
type KeyPage struct {
	Keys []*key.Key `json:"keys"`
	Next string     `json:"next,omitempty"`
}

// VersionRequest names the version a command is for; 0 is the primary one.
type VersionRequest struct {
	Version uint32 `json:"version"`
}

func (a *API) createKey(c *call) (any, error) {
	var r lifecycle.KeyRequest
	if err := c.decode(&r, false); err != nil {
		return nil, err
	}
	if r.Pool == "" {
		r.Pool = a.cfg.DefaultPool
	}
	k, err := a.cfg.Manager.CreateKey(c.ctx, c.actor, r)
	if err != nil {
		return nil, err
	}
	return created{k}, nil
}

func (a *API) listKeys(c *call) (any, error) {
	q, limit := c.r.URL.Query(), defaultPage
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxPage {
			return nil, problem(kindMalformed, fmt.Sprintf("limit: use 1 to %d", maxPage))
		}
		limit = n
	}
	// One more than asked tells whether there is a next page.
	keys, err := a.cfg.Manager.Keys(c.ctx, q.Get("after"), limit+1)
	if err != nil {
		return nil, err
	}
	p := KeyPage{Keys: keys}
	if len(keys) > limit {
		p.Keys, p.Next = keys[:limit], keys[limit-1].Name
	}
	if p.Keys == nil {
		p.Keys = []*key.Key{}
	}
	return p, nil
}

func (a *API) showKey(c *call) (any, error) { return a.cfg.Manager.Key(c.ctx, c.r.PathValue("name")) }

func (a *API) rotateKey(c *call) (any, error) {
	if err := c.decode(&struct{}{}, true); err != nil {
		return nil, err
	}
	return a.cfg.Manager.Rotate(c.ctx, c.actor, c.r.PathValue("name"))
}

// changeKey returns the handler of one event. What cannot be undone wants its version named.
func (a *API) changeKey(e key.Event) handler {
	return func(c *call) (any, error) {
		var r VersionRequest
		if err := c.decode(&r, true); err != nil {
			return nil, err
		}
		if e == key.Destroy && r.Version == 0 {
			return nil, problem(kindMalformed, "version: name the version to destroy")
		}
		return a.cfg.Manager.Change(c.ctx, c.actor, key.Ref{Name: c.r.PathValue("name"), Version: r.Version}, e)
	}
}
