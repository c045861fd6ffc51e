package key

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Usage is a set of the things a key, or a client with a key, may do.
type Usage uint16

// The usages. Sign, Encrypt, Wrap and MAC belong to the originator-usage period
// of a key version, the others to its recipient-usage period (NIST SP 800-57
// part 1 rev. 5, 5.3.4).
const (
	Sign Usage = 1 << iota
	Verify
	Encrypt
	Decrypt
	Wrap
	Unwrap
	MAC
	VerifyMAC
)

// Originator holds the usages that apply protection.
const Originator = Sign | Encrypt | Wrap | MAC

// Recipient holds the usages that process what is already protected.
const Recipient = Verify | Decrypt | Unwrap | VerifyMAC

var usageNames = []struct {
	u Usage
	s string
}{
	{Sign, "sign"}, {Verify, "verify"}, {Encrypt, "encrypt"}, {Decrypt, "decrypt"},
	{Wrap, "wrap"}, {Unwrap, "unwrap"}, {MAC, "mac"}, {VerifyMAC, "mac-verify"},
}

// Has reports whether u holds every usage of v.
func (u Usage) Has(v Usage) bool { return u&v == v }

// Names returns the names of the usages in u, in a fixed order.
func (u Usage) Names() []string {
	out := []string{}
	for _, n := range usageNames {
		if u.Has(n.u) {
			out = append(out, n.s)
		}
	}
	return out
}

// String returns the names joined by commas.
func (u Usage) String() string { return strings.Join(u.Names(), ",") }

// ParseUsages turns names into a set. The error names the unknown one and all known ones.
func ParseUsages(names []string) (Usage, error) {
	var u Usage
next:
	for _, s := range names {
		for _, n := range usageNames {
			if n.s == s {
				u |= n.u
				continue next
			}
		}
		return 0, fmt.Errorf("unknown usage %q: use any of %s", s, (Originator | Recipient).String())
	}
	return u, nil
}

// MarshalJSON writes the set as a list of names.
func (u Usage) MarshalJSON() ([]byte, error) { return json.Marshal(u.Names()) }

// UnmarshalJSON reads a list of names.
func (u *Usage) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	v, err := ParseUsages(names)
	if err != nil {
		return err
	}
	*u = v
	return nil
}
