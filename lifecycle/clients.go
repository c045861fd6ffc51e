package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// TokenPrefix begins every client's token, so that scanners find one that leaked.
const TokenPrefix = "kw_"

// MintToken returns a new bearer token with the given prefix: 256 random bits in base64url.
func MintToken(prefix string) string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand documents it)
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// CreateClient records a client. A client without certificate hashes gets a bearer token, which is
// returned this once and stored as its SHA-256 only.
func (m *Manager) CreateClient(ctx context.Context, actor string, c key.Client) (token string, err error) {
	if err := key.CheckName(c.Name); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for _, g := range c.Groups {
		if err := key.CheckName(g); err != nil {
			return "", fmt.Errorf("%w: group: %w", ErrInvalid, err)
		}
	}
	if !(c.Rate >= 0) || c.Burst < 0 { // a NaN is no rate either
		return "", fmt.Errorf("%w: rate and burst must not be negative", ErrInvalid)
	}
	for _, h := range c.CertHashes {
		if err := key.CheckHash(h); err != nil {
			return "", fmt.Errorf("%w: certificate hash: %w", ErrInvalid, err)
		}
	}
	if c.TokenHashes == nil && len(c.CertHashes) == 0 {
		token = MintToken(TokenPrefix)
		c.TokenHashes = []string{key.HashToken(token)}
	}
	created, err := clientEntry(audit.ClientCreated, &c)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	err = m.store.Update(ctx, func(tx Tx) error {
		if _, err := tx.Client(c.Name); err == nil {
			return fmt.Errorf("client %s %w", c.Name, ErrExists)
		}
		if err := certificatesFree(tx, c.CertHashes); err != nil {
			return err
		}
		if err := tx.InsertClient(c); err != nil {
			return err
		}
		created.Actor = by(ctx, actor)
		return tx.Append(created)
	})
	if err != nil {
		return "", err
	}
	m.log.InfoContext(ctx, "client created", "actor", actor, "client", c.Name)
	return token, nil
}

// clientEntry returns what the log says of a client. The error names what cannot be written.
func clientEntry(a audit.Action, c *key.Client) (*audit.Entry, error) {
	f, err := audit.ClientFact(c)
	if err == nil {
		_, err = f.Encode()
	}
	if err != nil {
		return nil, err
	}
	return &audit.Entry{Action: a, Object: f.Object, Details: f.Details}, nil
}

// certificatesFree returns an error wrapping ErrExists when a client is known by one of the hashes already: a request
// must not be able to mean two clients.
func certificatesFree(tx Tx, hashes []string) error {
	if len(hashes) == 0 {
		return nil
	}
	all, err := tx.Clients()
	if err != nil {
		return err
	}
	for _, o := range all {
		for _, h := range hashes {
			if slices.Contains(o.CertHashes, h) {
				return fmt.Errorf("certificate %s: client %s with it %w", h, o.Name, ErrExists)
			}
		}
	}
	return nil
}

// NewToken gives a client a new token and takes back every earlier one.
func (m *Manager) NewToken(ctx context.Context, actor, name string) (string, error) {
	token := MintToken(TokenPrefix)
	err := m.store.Update(ctx, func(tx Tx) error {
		c, err := tx.Client(name)
		if err != nil {
			return err
		}
		c.TokenHashes = []string{key.HashToken(token)}
		if err := tx.UpdateClient(*c); err != nil {
			return err
		}
		f, err := audit.ClientFact(c)
		if err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Actor: by(ctx, actor), Action: audit.TokenIssued, Object: f.Object, Details: audit.Details{Tokens: f.Details.Tokens}})
	})
	if err != nil {
		return "", err
	}
	m.log.InfoContext(ctx, "client got a new token", "actor", actor, "client", name)
	return token, nil
}

// DeleteClient removes a client. Its grants stay, without effect, for a client of the same name.
func (m *Manager) DeleteClient(ctx context.Context, actor, name string) error {
	err := m.store.Update(ctx, func(tx Tx) error {
		if err := tx.DeleteClient(name); err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Actor: by(ctx, actor), Action: audit.ClientDeleted, Object: audit.Object{Kind: audit.KindClient, Name: audit.Name(name)}})
	})
	if err == nil {
		m.log.InfoContext(ctx, "client deleted", "actor", actor, "client", name)
	}
	return err
}

// Clients returns every client, by name.
func (m *Manager) Clients(ctx context.Context) (out []key.Client, err error) {
	err = m.store.View(ctx, func(tx Tx) error { out, err = tx.Clients(); return err })
	return out, err
}

// CreateGrant records a grant and returns it with its ID.
func (m *Manager) CreateGrant(ctx context.Context, actor string, g key.Grant) (key.Grant, error) {
	if err := g.Check(); err != nil {
		return g, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	probe := g
	probe.ID = 1
	if _, err := audit.GrantFact(&probe).Encode(); err != nil { // what the log cannot say is not done
		return g, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	err := m.store.Update(ctx, func(tx Tx) (err error) {
		if g.ID, err = tx.InsertGrant(g); err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Actor: by(ctx, actor), Action: audit.GrantGiven, Object: grantObject(g.ID), Details: audit.GrantFact(&g).Details})
	})
	if err == nil {
		m.log.InfoContext(ctx, "grant created", "actor", actor, "grant", g.ID, "client", g.Client, "group", g.Group, "pattern", g.Pattern, "usages", g.Usages.String())
	}
	return g, err
}

// DeleteGrant removes a grant.
func (m *Manager) DeleteGrant(ctx context.Context, actor string, id int64) error {
	err := m.store.Update(ctx, func(tx Tx) error {
		if err := tx.DeleteGrant(id); err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Actor: by(ctx, actor), Action: audit.GrantWithdrawn, Object: grantObject(id)})
	})
	if err == nil {
		m.log.InfoContext(ctx, "grant deleted", "actor", actor, "grant", id)
	}
	return err
}

// Grants returns every grant, by ID.
func (m *Manager) Grants(ctx context.Context) (out []key.Grant, err error) {
	err = m.store.View(ctx, func(tx Tx) error { out, err = tx.Grants(); return err })
	return out, err
}
