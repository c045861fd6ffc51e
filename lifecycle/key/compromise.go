package key

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Reason is why a version is declared compromised: a word of a closed list, so that reports can count them.
type Reason string

// The reasons.
const (
	ReasonExposed     Reason = "exposed"     // the secret, or a wrapped form with its key, was seen outside a token
	ReasonSubstituted Reason = "substituted" // a key was found that nobody put there (PCI DSS 3.7.7)
	ReasonMisused     Reason = "misused"     // used by somebody, or for something, it was not meant for
	ReasonToken       Reason = "token"       // a token or target that held it was lost, stolen or opened
	ReasonCustodian   Reason = "custodian"   // somebody who could reach it cannot be trusted any more
	ReasonWeak        Reason = "weak"        // the algorithm, or how it was generated, turned out to be weak
	ReasonSuspected   Reason = "suspected"   // none of these is shown, and none can be ruled out
)

// Reasons returns the closed list. The caller owns the slice.
func Reasons() []Reason {
	return []Reason{ReasonExposed, ReasonSubstituted, ReasonMisused, ReasonToken, ReasonCustodian, ReasonWeak, ReasonSuspected}
}

// MaxReasonText is the longest text that may go with a reason, in bytes.
const MaxReasonText = 1024

// Finding is a reason and what a person says about it. The text goes into the audit log: nothing secret belongs in it.
type Finding struct {
	Reason Reason `json:"reason"`
	Text   string `json:"text"`
}

// Check returns an error that names what is wrong. A compromise without a word about what happened helps nobody, so
// the text is not optional.
func (f *Finding) Check() error {
	if !slices.Contains(Reasons(), f.Reason) {
		names := make([]string, 0, len(Reasons()))
		for _, r := range Reasons() {
			names = append(names, string(r))
		}
		return fmt.Errorf("unknown reason %q: use one of %s", string(f.Reason), strings.Join(names, ", "))
	}
	if strings.TrimSpace(f.Text) == "" || len(f.Text) > MaxReasonText || !utf8.ValidString(f.Text) {
		return fmt.Errorf("reason %s: say what happened in 1 to %d bytes of UTF-8", f.Reason, MaxReasonText)
	}
	return nil
}

// Scope is what is thought to be compromised. Every field that is set narrows it: a target alone is every version that
// may be there; a name and a version is one version. An empty scope is nothing.
type Scope struct {
	Name    string
	Version uint32
	Pool    string
	Target  string
}

// Radius is what a compromise touches.
type Radius struct {
	// Versions are those to be declared compromised; what is destroyed already is among them, since that can still be told.
	Versions []Touched
	// Halted are the names of the keys left without a primary version: their callers protect nothing until a rotation.
	Halted []string
	// Targets are those that must remove something, each once, in order.
	Targets []string
}

// Touched is one version within a [Radius].
type Touched struct {
	Ref     Ref
	State   State
	Primary bool
	// Usages are what callers lose or must doubt; Since is when the version began to protect, so what it protected from
	// then on is in doubt.
	Usages Usage
	Since  time.Time
	// Holding are the deployments that may still hold it: where removal is urgent.
	Holding []Deployment
}

// BlastRadius returns what it touches when everything in the scope is compromised. Deployments are by key ID. It is
// pure and changes nothing: the preview of the plan, and its substance.
func BlastRadius(s Scope, keys []*Key, deployed map[ID][]Deployment) Radius {
	var r Radius
	if s == (Scope{}) {
		return r
	}
	for _, k := range keys {
		if s.Name != "" && s.Name != k.Name || s.Pool != "" && s.Pool != k.Pool {
			continue
		}
		for _, v := range k.Versions {
			if s.Version != 0 && s.Version != v.Number || v.State == Compromised || v.State == DestroyedCompromised {
				continue
			}
			t := Touched{Ref: Ref{k.Name, v.Number}, State: v.State, Primary: k.Primary == v.Number, Usages: k.Usages, Since: v.Created}
			if v.NotBefore.After(t.Since) {
				t.Since = v.NotBefore
			}
			inScope := s.Target == ""
			for _, d := range deployed[k.ID] {
				if d.Version != v.Number || !d.State.MayHold() {
					continue
				}
				inScope = inScope || d.Target == s.Target
				t.Holding = append(t.Holding, d)
			}
			if !inScope {
				continue
			}
			for _, d := range t.Holding {
				r.Targets = append(r.Targets, d.Target)
			}
			if t.Primary {
				r.Halted = append(r.Halted, k.Name)
			}
			r.Versions = append(r.Versions, t)
		}
	}
	slices.Sort(r.Targets)
	r.Targets = slices.Compact(r.Targets)
	return r
}
