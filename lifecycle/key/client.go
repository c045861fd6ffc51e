package key

import (
	"fmt"
	"path"
	"regexp"
	"slices"
)

// Client is an application that may call the gateway. Its secrets are not here:
// a token is kept only as its SHA-256, a certificate only as the SHA-256 of its
// SubjectPublicKeyInfo.
type Client struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`
	// TokenHashes and CertHashes are lower-case hexadecimal SHA-256 values.
	TokenHashes []string `json:"token_hashes,omitempty"`
	CertHashes  []string `json:"cert_hashes,omitempty"`
	// Rate is the number of operations a second the client may start, 0 for no limit; Burst is how many at once.
	Rate     float64 `json:"rate,omitempty"`
	Burst    int     `json:"burst,omitempty"`
	Disabled bool    `json:"disabled,omitempty"`
}

var hashRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// CheckHash returns an error that tells how a SHA-256 is written: it is compared as text.
func CheckHash(s string) error {
	if !hashRE.MatchString(s) {
		return fmt.Errorf("bad SHA-256 %q: use 64 lower-case hexadecimal digits, without colons", s)
	}
	return nil
}

// Grant allows a client, or every client of a group, some usages of the keys whose names match a pattern.
type Grant struct {
	ID int64 `json:"id"`
	// Exactly one of Client and Group is set.
	Client string `json:"client,omitempty"`
	Group  string `json:"group,omitempty"`
	// Pattern is matched against key names by path.Match; "*" matches every name.
	Pattern string `json:"pattern"`
	Usages  Usage  `json:"usages"`
}

// Check returns an error that names the field that is wrong.
func (g *Grant) Check() error {
	if (g.Client == "") == (g.Group == "") {
		return fmt.Errorf("grant: name either a client or a group, not both and not neither")
	}
	if err := CheckName(g.Client + g.Group); err != nil { // one of them is empty
		return fmt.Errorf("grant: %w", err)
	}
	if g.Usages == 0 {
		return fmt.Errorf("grant: name at least one usage of %s", Originator|Recipient)
	}
	if _, err := path.Match(g.Pattern, "x"); err != nil || g.Pattern == "" {
		return fmt.Errorf("grant: bad pattern %q: use a key name with * ? or [a-z]", g.Pattern)
	}
	return nil
}

// Covers reports whether the grant speaks of client c and of the key called name.
func (g *Grant) Covers(c *Client, name string) bool {
	if g.Client != c.Name && (g.Group == "" || !slices.Contains(c.Groups, g.Group)) {
		return false
	}
	ok, err := path.Match(g.Pattern, name)
	return err == nil && ok
}
