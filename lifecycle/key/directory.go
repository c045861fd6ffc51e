package key

import (
	"crypto/sha256"
	"encoding/hex"
)

// Directory is an immutable snapshot of the clients and of what they may do. It is safe for
// concurrent use; a change of clients or grants is a new Directory.
type Directory struct {
	byToken map[string]*Client
	byCert  map[string]*Client
	grants  map[string][]Grant // by client name; those of its groups are in it
}

// NewDirectory indexes clients and grants. Disabled clients are left out, and grants of
// unknown clients are kept out of sight until the client exists.
func NewDirectory(clients []Client, grants []Grant) *Directory {
	d := &Directory{byToken: map[string]*Client{}, byCert: map[string]*Client{}, grants: map[string][]Grant{}}
	byClient, byGroup := map[string][]Grant{}, map[string][]Grant{}
	for _, g := range grants {
		if g.Client != "" {
			byClient[g.Client] = append(byClient[g.Client], g)
		} else {
			byGroup[g.Group] = append(byGroup[g.Group], g)
		}
	}
	for i := range clients {
		c := clients[i]
		if c.Disabled {
			continue
		}
		for _, h := range c.TokenHashes {
			d.byToken[h] = &c
		}
		for _, h := range c.CertHashes {
			d.byCert[h] = &c
		}
		d.grants[c.Name] = append(d.grants[c.Name], byClient[c.Name]...)
		for _, g := range c.Groups {
			d.grants[c.Name] = append(d.grants[c.Name], byGroup[g]...)
		}
	}
	return d
}

// HashToken returns the form in which a bearer token is stored: its SHA-256 in lower-case
// hexadecimal. Tokens are 256 random bits, so a slow password hash would add nothing.
func HashToken(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// ByToken returns the client that holds the bearer token. The look-up is by hash, so its
// timing tells nothing about tokens that exist.
func (d *Directory) ByToken(token string) (*Client, bool) {
	h := sha256.Sum256([]byte(token))
	var x [2 * sha256.Size]byte
	hex.Encode(x[:], h[:])
	c, ok := d.byToken[string(x[:])]
	return c, ok
}

// ByCert returns the client whose verified certificate has this SubjectPublicKeyInfo (DER).
func (d *Directory) ByCert(spki []byte) (*Client, bool) {
	h := sha256.Sum256(spki)
	c, ok := d.byCert[hex.EncodeToString(h[:])]
	return c, ok
}

// Allowed returns every usage c has been granted on the key called name; 0 when it may not even see it.
func (d *Directory) Allowed(c *Client, name string) Usage {
	var u Usage
	for i := range d.grants[c.Name] {
		if g := &d.grants[c.Name][i]; g.Covers(c, name) {
			u |= g.Usages
		}
	}
	return u
}
