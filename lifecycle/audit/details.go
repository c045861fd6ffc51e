package audit

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"keyway/lifecycle/key"
)

// Details are what else is to be said: every field that any action has. Which of them an action has is in a table (see
// docs/design/audit.md); the others must be zero.
type Details struct {
	Algorithm     key.Algorithm
	Approvals     Number      // how many a plan needs
	Approvers     []Principal // who has approved a plan so far
	Burst         Number
	Certificates  []Hash // of the SubjectPublicKeyInfo
	Client        Name
	Command       Name // what a plan or a job does: rotate, destroy
	Config        Hash // of the record of a member
	Count         Number
	Disabled      Flag
	Drained       Flag
	Driver        Name
	Epoch         Number
	Erased        Flag // a version whose material is gone
	Event         key.Event
	Expires       Time
	From          key.State
	Generated     Flag // a version that has material, or had
	Group         Name
	Groups        []Name
	Hash          Hash // of a plan, a backup, a configuration
	KCV           KCV
	Latched       Flag
	Member        Name // pool/member
	NotBefore     Time
	Origin        Origin
	OriginatorEnd Time
	Pattern       Pattern
	Pool          Name
	Primary       Number // 0: none
	Public        Hash   // of the SubjectPublicKeyInfo
	Rate          Number // thousandths of an operation a second
	Reason        Text
	RecipientEnd  Time
	Requester     Principal
	Role          Role
	Roles         []Role
	Root          Hash
	Signers       []Principal
	Size          Number // entries in the log
	Start         Number // the first entry of a part of the log
	State         key.State
	Status        Status
	Target        Name
	To            key.State
	Tokens        []Hash
	Usages        key.Usage
}

// field is one field of Details as it is written.
type field struct {
	name string
	of   func(*Details) value
}

// fields are in the order of their names, which is the order RFC 8785 writes them in.
var fields = []field{
	{"algorithm", func(d *Details) value { return (*algorithmValue)(&d.Algorithm) }},
	{"approvals", func(d *Details) value { return &d.Approvals }},
	{"approvers", func(d *Details) value { return list[Principal, *Principal]{&d.Approvers} }},
	{"burst", func(d *Details) value { return &d.Burst }},
	{"certificates", func(d *Details) value { return list[Hash, *Hash]{&d.Certificates} }},
	{"client", func(d *Details) value { return &d.Client }},
	{"command", func(d *Details) value { return &d.Command }},
	{"config", func(d *Details) value { return &d.Config }},
	{"count", func(d *Details) value { return &d.Count }},
	{"disabled", func(d *Details) value { return &d.Disabled }},
	{"drained", func(d *Details) value { return &d.Drained }},
	{"driver", func(d *Details) value { return &d.Driver }},
	{"epoch", func(d *Details) value { return &d.Epoch }},
	{"erased", func(d *Details) value { return &d.Erased }},
	{"event", func(d *Details) value { return (*eventValue)(&d.Event) }},
	{"expires", func(d *Details) value { return &d.Expires }},
	{"from", func(d *Details) value { return (*stateValue)(&d.From) }},
	{"generated", func(d *Details) value { return &d.Generated }},
	{"group", func(d *Details) value { return &d.Group }},
	{"groups", func(d *Details) value { return list[Name, *Name]{&d.Groups} }},
	{"hash", func(d *Details) value { return &d.Hash }},
	{"kcv", func(d *Details) value { return &d.KCV }},
	{"latched", func(d *Details) value { return &d.Latched }},
	{"member", func(d *Details) value { return &d.Member }},
	{"not_before", func(d *Details) value { return &d.NotBefore }},
	{"origin", func(d *Details) value { return &d.Origin }},
	{"originator_end", func(d *Details) value { return &d.OriginatorEnd }},
	{"pattern", func(d *Details) value { return &d.Pattern }},
	{"pool", func(d *Details) value { return &d.Pool }},
	{"primary", func(d *Details) value { return &d.Primary }},
	{"public", func(d *Details) value { return &d.Public }},
	{"rate", func(d *Details) value { return &d.Rate }},
	{"reason", func(d *Details) value { return &d.Reason }},
	{"recipient_end", func(d *Details) value { return &d.RecipientEnd }},
	{"requester", func(d *Details) value { return &d.Requester }},
	{"role", func(d *Details) value { return &d.Role }},
	{"roles", func(d *Details) value { return list[Role, *Role]{&d.Roles} }},
	{"root", func(d *Details) value { return &d.Root }},
	{"signers", func(d *Details) value { return list[Principal, *Principal]{&d.Signers} }},
	{"size", func(d *Details) value { return &d.Size }},
	{"start", func(d *Details) value { return &d.Start }},
	{"state", func(d *Details) value { return (*stateValue)(&d.State) }},
	{"status", func(d *Details) value { return &d.Status }},
	{"target", func(d *Details) value { return &d.Target }},
	{"to", func(d *Details) value { return (*stateValue)(&d.To) }},
	{"tokens", func(d *Details) value { return list[Hash, *Hash]{&d.Tokens} }},
	{"usages", func(d *Details) value { return (*usageValue)(&d.Usages) }},
}

// set is a set of fields, by their place in the table.
type set uint64

// sets are the fields of one rule.
type sets struct{ must, may set }

func setOf(names []string) set {
	var s set
	for _, n := range names {
		i, ok := slices.BinarySearchFunc(fields, n, func(f field, n string) int { return strings.Compare(f.name, n) })
		if !ok {
			panic("audit: internal error: a rule names the field " + n + ", which Details has not")
		}
		s |= 1 << i
	}
	return s
}

var (
	ruleSets  = compile(rules)
	shapeSets = compile(shapes)
)

func compile[K comparable](from map[K]rule) map[K]sets {
	out := make(map[K]sets, len(from))
	for k, r := range from {
		out[k] = sets{setOf(r.must), setOf(r.may)}
	}
	return out
}

// setsOf returns which details belong to an action about an object of a kind.
func setsOf(a Action, kind ObjectKind) (sets, error) {
	if _, err := ruleOf(a, kind); err != nil {
		return sets{}, err
	}
	if rules[a].kind == "" {
		return shapeSets[kind], nil
	}
	return ruleSets[a], nil
}

// present returns which fields are not zero.
func (d *Details) present() set {
	var s set
	for i := range fields {
		if !fields[i].of(d).zero() {
			s |= 1 << i
		}
	}
	return s
}

// check returns an error that names the first field that is wrong or out of place. Fields that must be there may be zero.
func (d *Details) check(of sets) error {
	have := d.present()
	if extra := have &^ (of.must | of.may); extra != 0 {
		return fmt.Errorf("detail %s has no place here", fields[bits.TrailingZeros64(uint64(extra))].name)
	}
	for s := have | of.must; s != 0; s &= s - 1 {
		f := &fields[bits.TrailingZeros64(uint64(s))]
		v := f.of(d)
		if v.zero() && !mayBeZero(v) {
			return fmt.Errorf("detail %s is missing", f.name)
		}
		if err := v.check(); err != nil {
			return fmt.Errorf("detail %s: %w", f.name, err)
		}
	}
	return nil
}

// mayBeZero reports whether the zero value of v is worth writing: 0 is a number.
func mayBeZero(v value) bool { _, ok := v.(*Number); return ok }

// write appends the fields that must be there and those that are not zero.
func (d *Details) write(dst []byte, of sets) []byte {
	dst = append(dst, '{')
	first := true
	for s := d.present() | of.must; s != 0; s &= s - 1 {
		f := &fields[bits.TrailingZeros64(uint64(s))]
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, f.name...)
		dst = append(dst, '"', ':')
		dst = f.of(d).write(dst)
	}
	return append(dst, '}')
}

// read reads what write wrote.
func (d *Details) read(s *scanner) error {
	if !s.next('{') {
		return s.errorf("want details")
	}
	last := -1
	for {
		name, err := s.raw()
		if err != nil {
			return err
		}
		i := last + 1
		for i < len(fields) && fields[i].name != string(name) {
			i++
		}
		if i == len(fields) {
			return s.errorf("detail %q is unknown or out of order", name)
		}
		last = i
		if err := s.want(":"); err != nil {
			return err
		}
		if err := fields[i].of(d).read(s); err != nil {
			return fmt.Errorf("detail %s: %w", name, err)
		}
		if s.next('}') {
			return nil
		}
		if !s.next(',') {
			return s.errorf("want a comma or the end of the details")
		}
	}
}
