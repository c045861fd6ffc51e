package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"keyway/lifecycle/key"
)

// The types of fields. There are no others: no byte slice, no interface, no map, and one type for words of people.

// Name is the name of a thing: one to four names as [key.CheckName] wants them, joined by slashes (pool/member), or a
// word of the vocabulary.
type Name string

// Principal is the name of a person or program as its identity provider has it: 1 to 128 letters, digits and . _ @ : / -.
type Principal string

// Origin is the first line of a log's checkpoints: 1 to 128 characters, a host and path that need not exist.
type Origin string

// Pattern is the pattern of a grant, as path.Match has it: 1 to 256 printable ASCII characters without spaces.
type Pattern string

// Number is a count or an identifying number between 0 and 2^53-1, which JSON keeps exactly.
type Number int64

// Time is an instant in milliseconds since 1970, UTC. 0 is no time.
type Time int64

// Flag is yes or no.
type Flag bool

// Hash is a SHA-256 of something else. It is made by hashing or read from text that holds one.
type Hash struct{ sum [sha256.Size]byte }

// KCV is a key check value of three bytes (ANSI X9.24-1), which tells nothing of its key.
type KCV struct{ b [3]byte }

// Role is what a person may do.
type Role string

// The roles.
const (
	RoleSystemAdmin Role = "system-admin"
	RoleKeyManager  Role = "key-manager"
	RoleApprover    Role = "approver"
	RoleCustodian   Role = "custodian"
	RoleOperator    Role = "operator"
	RoleAuditor     Role = "auditor"
	RoleListener    Role = "listener"
)

// Status is where a plan is.
type Status string

// The states of a plan.
const (
	PlanOpen  Status = "open"
	PlanDone  Status = "executed"
	PlanNo    Status = "rejected"
	PlanStale Status = "expired"
)

// Auth says how an actor was authenticated.
type Auth string

// The ways of authentication.
const (
	ByCertificate Auth = "certificate"
	ByToken       Auth = "token"
	ByOIDC        Auth = "oidc"
	BySystem      Auth = "system" // the program itself, by schedule or rule
	ByNothing     Auth = "none"   // a claim that was not believed: refused logins only
)

// Outcome says how it ended. Only what is done changes the state.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Failed  Outcome = "failed"
	Refused Outcome = "refused"
)

var (
	roles    = []Role{RoleSystemAdmin, RoleKeyManager, RoleApprover, RoleCustodian, RoleOperator, RoleAuditor, RoleListener}
	statuses = []Status{PlanOpen, PlanDone, PlanNo, PlanStale}
	auths    = []Auth{ByCertificate, ByToken, ByOIDC, BySystem, ByNothing}
	outcomes = []Outcome{Done, Failed, Refused}

	principalRE = regexp.MustCompile(`^[A-Za-z0-9._@:/-]{1,128}$`)
	originRE    = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,128}$`)
	patternRE   = regexp.MustCompile(`^[!-~]{1,256}$`)
)

// HashOf returns the SHA-256 of b.
func HashOf(b []byte) Hash { return Hash{sha256.Sum256(b)} }

// RootHash returns the root of a tree as a field of an entry.
func RootHash(h tlog.Hash) Hash { return Hash{h} }

// ParseHash reads 64 lower-case hexadecimal digits.
func ParseHash(s string) (Hash, error) {
	if err := key.CheckHash(s); err != nil {
		return Hash{}, err
	}
	var h Hash
	_, err := hex.Decode(h.sum[:], []byte(s))
	return h, err
}

// String returns 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h.sum[:]) }

// KCVOf returns b, which must be 3 bytes, as a check value.
func KCVOf(b []byte) (KCV, error) {
	var k KCV
	if len(b) != len(k.b) {
		return k, fmt.Errorf("a key check value has 3 bytes, not %d", len(b))
	}
	copy(k.b[:], b)
	return k, nil
}

// String returns 6 lower-case hexadecimal digits.
func (k KCV) String() string { return hex.EncodeToString(k.b[:]) }

// PrincipalOf makes a principal of what somebody claims to be called: other characters become underscores, the rest is
// cut off.
func PrincipalOf(s string) Principal {
	out := []byte(s)
	for i, c := range out {
		if !principalRE.Match([]byte{c}) {
			out[i] = '_'
		}
	}
	if len(out) == 0 {
		return "_"
	}
	return Principal(out[:min(len(out), 128)])
}

func checkNames(s string) error {
	segments := strings.Split(s, "/")
	if len(segments) > 4 {
		return fmt.Errorf("bad name %q: at most four parts", s)
	}
	for _, p := range segments {
		if err := key.CheckName(p); err != nil {
			return err
		}
	}
	return nil
}

func matches(re *regexp.Regexp, what, s string) error {
	if !re.MatchString(s) {
		return fmt.Errorf("bad %s %q: it must match %s", what, s, re)
	}
	return nil
}

func oneOf[T ~string](what string, v T, all []T) error {
	if !slices.Contains(all, v) {
		return fmt.Errorf("unknown %s %q", what, string(v))
	}
	return nil
}
