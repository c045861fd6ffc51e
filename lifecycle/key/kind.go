package key

import (
	"fmt"
	"slices"
	"time"
)

// Kind is a type of key as SP 800-57 part 1 rev. 5, 5.1.1, knows it. The type decides how long a key lives and whether its
// secret outlives the originator-usage period. A version is of one kind for each purpose among its usages.
type Kind uint8

// The kinds. No usage makes KindAuthentication, KindMaster or KindRBG yet: they are here because the rules for them differ.
const (
	KindSignature Kind = iota + 1
	KindAuthentication
	KindMAC
	KindEncryption
	KindWrapping
	KindTransport
	KindMaster
	KindRBG
)

// KindInfo is one row of the table of kinds.
type KindInfo struct {
	Kind Kind
	Name string
	// Usages are those that make a version one of this kind, Asymmetric whether that goes for pairs or for secret keys.
	Usages     Usage
	Asymmetric bool
	// Originator is the default length of the originator-usage period, OriginatorMax the longest the standard suggests.
	// Both are 0 where it names none.
	Originator, OriginatorMax time.Duration
	// Recipient is how long after the end of the originator-usage period a version still processes, by default and at
	// most; negative is for ever.
	Recipient time.Duration
	// SecretEnds is the state to which the secret or private half goes at the end of the originator-usage period;
	// PublicEnds is that of the public half, 0 where there is none.
	SecretEnds, PublicEnds State
}

const (
	year    = 365 * 24 * time.Hour
	forever = time.Duration(-1)
)

// kinds is table 1 of SP 800-57 part 1 rev. 5 (5.3.6) and the rules for types in 7.2, transitions 5 and 8, and in 7.3,
// transitions 9 and 12. The figures were read in secondary sources and in an earlier revision, not in revision 5
// itself: check them before you show them to an auditor. A range became a default inside it.
//
// Key transport: the table gives two years to the private half and lets it exceed the public one where messages are
// stored and opened later; they are stored here, so new data gets one year, and the private half three more.
var kinds = []KindInfo{
	{KindSignature, "private signature", Sign | Verify, true, 2 * year, 3 * year, forever, Destroyed, Deactivated},
	{KindAuthentication, "private authentication", 0, true, 1 * year, 2 * year, forever, Destroyed, Deactivated},
	{KindMAC, "symmetric authentication", MAC | VerifyMAC, false, 2 * year, 2 * year, 3 * year, Deactivated, 0},
	{KindEncryption, "symmetric data encryption", Encrypt | Decrypt, false, 2 * year, 2 * year, 3 * year, Deactivated, 0},
	{KindWrapping, "symmetric key wrapping", Wrap | Unwrap, false, 2 * year, 2 * year, 3 * year, Deactivated, 0},
	{KindTransport, "key transport", Encrypt | Decrypt | Wrap | Unwrap, true, 1 * year, 2 * year, 3 * year, Deactivated, Deactivated},
	{KindMaster, "symmetric master", 0, false, 1 * year, 1 * year, 0, Destroyed, 0},
	{KindRBG, "symmetric RBG", 0, false, 0, 0, 0, Destroyed, 0},
}

// Kinds returns the whole table. The caller owns the slice.
func Kinds() []KindInfo { return slices.Clone(kinds) }

// Info returns the row of k, or an error for a kind that is not in the table.
func (k Kind) Info() (KindInfo, error) {
	for _, r := range kinds {
		if r.Kind == k {
			return r, nil
		}
	}
	return KindInfo{}, fmt.Errorf("unknown kind of key %d", uint8(k))
}

// String returns the standard's words for k.
func (k Kind) String() string {
	if r, err := k.Info(); err == nil {
		return r.Name
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// KindsOf returns the kinds of a key with this algorithm and these usages, in the order of the table.
func KindsOf(a Algorithm, u Usage) []Kind {
	var out []Kind
	for _, r := range kinds {
		if r.Usages&u != 0 && r.Asymmetric == a.Asymmetric() {
			out = append(out, r.Kind)
		}
	}
	return out
}

// NextOf is [Next] for a key of kind k: it knows besides that a secret which has no half to stay behind and no
// recipient-usage period (a master or RBG key) goes from active or suspended straight to destroyed (SP 800-57 part 1
// rev. 5, 7.2 transition 5, 7.3 transition 9). For every other kind destruction comes after deactivation.
//
// A private signature key goes straight to destroyed as well, but a version is both halves of its pair and has one
// state, that of the half that stays: deactivated, so that what it signed still verifies. What is left of the private
// half is told by [Version.EraseDue].
func NextOf(k Kind, s State, e Event) (State, error) {
	if r, err := k.Info(); err == nil && e == Destroy && (s == Active || s == Suspended) && r.SecretEnds == Destroyed && r.PublicEnds == 0 {
		return Destroyed, nil
	}
	return Next(s, e)
}

// EraseDue reports whether the wrapped private half is still there though its kind has it destroyed at the end of the
// originator-usage period: a pair that only signs, deactivated by an order or a date. A pair that also decrypts keeps it.
func (v *Version) EraseDue(now time.Time) bool {
	if v.Blob == nil || v.Effective(now) != Deactivated {
		return false
	}
	of := KindsOf(v.Algorithm, v.Usages)
	for _, k := range of {
		if r, err := k.Info(); err != nil || r.SecretEnds != Destroyed {
			return false
		}
	}
	return len(of) > 0
}
