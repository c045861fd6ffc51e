package lifecycle

import (
	"fmt"
	"slices"
	"strings"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// need is something that keys of the pool ask of a token, with how many of them do.
type need struct {
	what     string
	has      func(hsm.Info) bool
	keys     []KeysInUse
	poolWide bool // what one member lacks, the pool offers nobody
}

func mechanism(m hsm.MechanismType) need {
	return need{what: m.String(), has: func(i hsm.Info) bool { return i.Has(m) }}
}

// sized is a mechanism that must take keys of so many bits. Where a token tells no limits, it takes all.
func sized(m hsm.MechanismType, bits int) need {
	return need{what: fmt.Sprintf("%s with keys of %d bits", m, bits), has: func(i hsm.Info) bool {
		r, ok := i.Mechanisms[m]
		return ok && (r.Max == 0 || uint64(bits) >= r.Min && uint64(bits) <= r.Max)
	}}
}

// mechanisms refuses a token that lacks what the pool cannot do without, or, unless the operator wants it so, what
// some of its keys need.
func (t *trial) mechanisms(info hsm.Info) *Misfit {
	var lacks []string
	for _, m := range []hsm.MechanismType{wrap, hsm.AESCMAC} {
		if !info.Has(m) {
			lacks = append(lacks, m.String())
		}
	}
	if lacks != nil {
		return misfit(CauseMechanisms, "no key could be loaded on it; name another token, or let the vendor's configuration or firmware offer them", "its token lacks %s", strings.Join(lacks, " and "))
	}
	for _, n := range t.needs() {
		if !n.has(info) {
			lacks = append(lacks, n.String())
		}
	}
	switch {
	case lacks == nil:
		t.say("it has every mechanism that the pool's keys need")
	case t.o.Partial:
		t.say("it lacks %s", strings.Join(lacks, "; "))
	default:
		return misfit(CauseMechanisms, "add it with --partial if the other members shall do that alone", "its token lacks %s", strings.Join(lacks, "; "))
	}
	return nil
}

// String says what is needed and for which keys.
func (n need) String() string {
	var keys []string
	for _, k := range n.keys {
		if k.Count == 1 {
			keys = append(keys, fmt.Sprintf("%s (%s)", k.Example, k.Algorithm))
		} else {
			keys = append(keys, fmt.Sprintf("%d keys of %s, such as %s", k.Count, k.Algorithm, k.Example))
		}
	}
	s := n.what + ", needed by " + strings.Join(keys, " and ")
	if n.poolWide {
		s += ", which the whole pool would then refuse"
	}
	return s
}

// needs returns what the keys of the pool need, each thing once.
func (t *trial) needs() []need {
	var all []need
	for _, k := range t.what.keys {
		for _, n := range t.needsOf(k) {
			if i := slices.IndexFunc(all, func(o need) bool { return o.what == n.what }); i >= 0 {
				all[i].keys = append(all[i].keys, k)
				continue
			}
			n.keys = []KeysInUse{k}
			all = append(all, n)
		}
	}
	return all
}

// needsOf returns what keys of one kind need. Public keys are used without a token.
func (t *trial) needsOf(k KeysInUse) (out []need) {
	row, err := k.Algorithm.Info()
	if err != nil {
		return nil // of a later release: nobody here can use it
	}
	may := func(u key.Usage) bool { return k.Usages&u != 0 }
	switch row.Family {
	case key.FamilyAES:
		out = append(out, mechanism(hsm.AESGCM))
		if n := mechanism(hsm.AESKeyWrapKWP); may(key.Wrap|key.Unwrap) && t.m.cfg.Pool.Has(hsm.AESKeyWrapKWP) {
			n.poolWide = true
			out = append(out, n)
		}
	case key.FamilyHMAC:
		out = append(out, mechanism(map[int]hsm.MechanismType{256: hsm.SHA256HMAC, 384: hsm.SHA384HMAC, 512: hsm.SHA512HMAC}[row.Bits]))
	case key.FamilyRSA:
		if may(key.Sign) {
			out = append(out, sized(hsm.RSAPKCSPSS, row.Bits), sized(hsm.RSAPKCS, row.Bits))
		}
		if may(key.Decrypt | key.Unwrap) {
			out = append(out, sized(hsm.RSAPKCSOAEP, row.Bits))
			for _, h := range t.m.cfg.Pool.OAEPHashes() {
				out = append(out, need{what: fmt.Sprintf("%s with %s", hsm.RSAPKCSOAEP, h), has: func(i hsm.Info) bool { return slices.Contains(i.OAEPHashes, h) }, poolWide: true})
			}
		}
	case key.FamilyEC:
		if may(key.Sign) {
			out = append(out, sized(hsm.ECDSA, row.Bits))
		}
	case key.FamilyEd25519:
		if may(key.Sign) {
			out = append(out, mechanism(hsm.EDDSA))
		}
	}
	return out
}
