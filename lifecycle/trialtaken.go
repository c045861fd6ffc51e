package lifecycle

import (
	"slices"
	"strings"

	"keyway/hsm"
	"keyway/pool"
)

// taken says by which member a token is used.
func taken(pool, member string) *Misfit {
	return misfit(CauseTaken, "a token is one member of one pool: name another token, or remove that member first", "its token is member %s of pool %s already", member, pool)
}

// takenByRecord refuses a token that, after what the store says, is another member's.
func (t *trial) takenByRecord() *Misfit { return takenByRecord(t.r, t.what.members) }

func takenByRecord(r MemberRecord, members []MemberRecord) *Misfit {
	for _, o := range members {
		if (o.Pool != r.Pool || o.Name != r.Name) && nameSameToken(o, r) {
			return taken(o.Pool, o.Name)
		}
	}
	return nil
}

// nameSameToken reports whether two records certainly name one token: the same library, set up in the same way, and nothing in
// which they differ. Those that name it in different words are told apart by the token itself.
func nameSameToken(a, b MemberRecord) bool {
	if a.Driver != b.Driver {
		return false
	}
	if a.Driver == "soft" {
		return realPath(a.TokenDir) == realPath(b.TokenDir) && a.TokenLabel == b.TokenLabel
	}
	differ, same := false, false
	for _, p := range [][2]string{{a.TokenLabel, b.TokenLabel}, {a.TokenSerial, b.TokenSerial}, {a.TokenManufacturer, b.TokenManufacturer}, {a.TokenModel, b.TokenModel}} {
		differ = differ || p[0] != "" && p[1] != "" && p[0] != p[1]
	}
	same = a.TokenLabel != "" && a.TokenLabel == b.TokenLabel || a.TokenSerial != "" && a.TokenSerial == b.TokenSerial
	return same && !differ && realPath(a.Module) == realPath(b.Module) && a.InitArgs == b.InitArgs && slices.Equal(slices.Sorted(slices.Values(a.Env)), slices.Sorted(slices.Values(b.Env)))
}

// takenByInfo refuses a token that is, after what it says of itself, one that is open as another member, in whatever words that one
// names it. Members that are not open are known by their Root KEKs; see keks.
func (t *trial) takenByInfo(i hsm.Info) *Misfit {
	// The embedded token's serial number is made of its label, and software tokens may all have the same one.
	if i.Vendor == hsm.VendorSoft || strings.Trim(i.Serial, "0 ") == "" {
		return nil
	}
	stats := []pool.Stat{t.m.cfg.Pool.Stat()}
	if t.m.cfg.Stats != nil {
		stats = t.m.cfg.Stats()
	}
	for _, s := range stats {
		for _, o := range s.Members {
			if o.Serial == i.Serial && o.Manufacturer == i.Manufacturer && o.Model == i.Model && (s.Pool != t.r.Pool || o.Name != t.r.Name) {
				return taken(s.Pool, o.Name)
			}
		}
	}
	return nil
}
