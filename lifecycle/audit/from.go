package audit

import (
	"fmt"
	"math"
	"regexp"
	"strings"

	"keyway/lifecycle/key"
)

// What is known about keys, clients and grants, as entries and facts have it. Both are made here, so that the state that
// follows from entries is written as the one in the store.

// KeyFact returns the state of a key. The versions are facts of their own.
func KeyFact(k *key.Key) *Fact {
	return &Fact{
		Object{Kind: KindKey, Name: Name(k.Name), ID: k.ID},
		Details{Algorithm: k.Algorithm, Usages: k.Usages, Pool: Name(k.Pool), Primary: Number(k.Primary)},
	}
}

// VersionObject names a version.
func VersionObject(v *key.Version) Object {
	return Object{Kind: KindVersion, Name: Name(v.Name), Number: Number(v.Number), ID: v.ID}
}

// VersionFact returns the state of a version. Whether it was ever generated and whether its material was erased is not in v: blobs
// that are not there may be either.
func VersionFact(v *key.Version, generated, erased bool) *Fact {
	d := PeriodDetails(v)
	d.State, d.Generated, d.Erased = v.State, Flag(generated), Flag(erased)
	if v.Public != nil {
		d.Public = HashOf(v.Public)
	}
	return &Fact{VersionObject(v), d}
}

// PeriodDetails returns the cryptoperiods of a version, as the entries that set them have them.
func PeriodDetails(v *key.Version) Details {
	return Details{NotBefore: TimeOf(v.NotBefore), OriginatorEnd: TimeOf(v.OriginatorEnd), RecipientEnd: TimeOf(v.RecipientEnd)}
}

// ClientFact returns the state of a client; its details are also those of the entries that create and change it. The error
// names a hash that is none.
func ClientFact(c *key.Client) (*Fact, error) {
	f := &Fact{Object{Kind: KindClient, Name: Name(c.Name)}, Details{Burst: Number(c.Burst), Disabled: Flag(c.Disabled)}}
	if c.Rate < 0 || c.Rate > maxNumber/1000 || math.IsNaN(c.Rate) {
		return nil, fmt.Errorf("audit: client %s: a rate of %v cannot be written", c.Name, c.Rate)
	}
	f.Details.Rate = Number(math.Round(c.Rate * 1000))
	for _, g := range c.Groups {
		f.Details.Groups = append(f.Details.Groups, Name(g))
	}
	for _, list := range []struct {
		from []string
		to   *[]Hash
	}{{c.TokenHashes, &f.Details.Tokens}, {c.CertHashes, &f.Details.Certificates}} {
		for _, s := range list.from {
			h, err := ParseHash(s)
			if err != nil {
				return nil, fmt.Errorf("audit: client %s: %w", c.Name, err)
			}
			*list.to = append(*list.to, h)
		}
	}
	return f, nil
}

// GrantFact returns the state of a grant; its details are also those of the entry that gives it.
func GrantFact(g *key.Grant) *Fact {
	return &Fact{Object{Kind: KindGrant, Number: Number(g.ID)}, Details{Client: Name(g.Client), Group: Name(g.Group), Pattern: Pattern(g.Pattern), Usages: g.Usages}}
}

var notName = regexp.MustCompile(`[^a-z0-9._-]+`)

// NameOf makes a name of what is called by somebody else's rules, a host for example: in lower case, with dashes for what
// names cannot have. It returns "unnamed" when nothing is left.
func NameOf(s string) Name {
	s = notName.ReplaceAllString(strings.ToLower(s), "-")
	s = strings.Trim(s[:min(len(s), 128)], "._-")
	if s == "" {
		return "unnamed"
	}
	return Name(s)
}
