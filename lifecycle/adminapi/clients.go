package adminapi

import (
	"strconv"

	"keyway/lifecycle/key"
)

// ClientRequest describes a client to be made. One without certificate hashes gets a token.
type ClientRequest struct {
	Name       string   `json:"name"`
	Groups     []string `json:"groups,omitempty"`
	CertHashes []string `json:"cert_hashes,omitempty"`
	Rate       float64  `json:"rate,omitempty"`
	Burst      int      `json:"burst,omitempty"`
}

// Client is a client as operators see it: its tokens are only counted.
type Client struct {
	Name       string   `json:"name"`
	Groups     []string `json:"groups,omitempty"`
	Tokens     int      `json:"tokens"`
	CertHashes []string `json:"cert_hashes,omitempty"`
	Rate       float64  `json:"rate,omitempty"`
	Burst      int      `json:"burst,omitempty"`
	Disabled   bool     `json:"disabled,omitempty"`
}

// ClientToken is the one answer that holds a client's token, which is shown this once. Token is empty for a client with certificates only.
type ClientToken struct {
	Name  string `json:"name"`
	Token string `json:"token,omitempty"`
}

// ClientList holds every client, by name.
type ClientList struct {
	Clients []Client `json:"clients"`
}

// GrantList holds every grant, by ID.
type GrantList struct {
	Grants []key.Grant `json:"grants"`
}

func (a *API) createClient(c *call) (any, error) {
	var r ClientRequest
	if err := c.decode(&r, false); err != nil {
		return nil, err
	}
	token, err := a.cfg.Manager.CreateClient(c.ctx, c.actor, key.Client{Name: r.Name, Groups: r.Groups, CertHashes: r.CertHashes, Rate: r.Rate, Burst: r.Burst})
	if err != nil {
		return nil, err
	}
	return created{ClientToken{r.Name, token}}, nil
}

func (a *API) listClients(c *call) (any, error) {
	all, err := a.cfg.Manager.Clients(c.ctx)
	list := ClientList{Clients: []Client{}}
	for _, x := range all {
		list.Clients = append(list.Clients, Client{x.Name, x.Groups, len(x.TokenHashes), x.CertHashes, x.Rate, x.Burst, x.Disabled})
	}
	return list, err
}

func (a *API) deleteClient(c *call) (any, error) {
	return nil, a.cfg.Manager.DeleteClient(c.ctx, c.actor, c.r.PathValue("name"))
}

func (a *API) newToken(c *call) (any, error) {
	token, err := a.cfg.Manager.NewToken(c.ctx, c.actor, c.r.PathValue("name"))
	return ClientToken{c.r.PathValue("name"), token}, err
}

func (a *API) createGrant(c *call) (any, error) {
	var g key.Grant
	if err := c.decode(&g, false); err != nil {
		return nil, err
	}
	if g.ID != 0 {
		return nil, problem(kindMalformed, "id: it is given, not sent")
	}
	g, err := a.cfg.Manager.CreateGrant(c.ctx, c.actor, g)
	if err != nil {
		return nil, err
	}
	return created{g}, nil
}

func (a *API) listGrants(c *call) (any, error) {
	all, err := a.cfg.Manager.Grants(c.ctx)
	if all == nil {
		all = []key.Grant{}
	}
	return GrantList{all}, err
}

func (a *API) deleteGrant(c *call) (any, error) {
	id, err := strconv.ParseInt(c.r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, problem(kindMalformed, "a grant's id is a number")
	}
	return nil, a.cfg.Manager.DeleteGrant(c.ctx, c.actor, id)
}
