package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"keyway/lifecycle/key"
)

// format is the version of the encoding.
const format = 1

// maxEntry is more than any entry needs, in bytes.
const maxEntry = 64 << 10

// Entry is one thing that happened.
type Entry struct {
	Seq     Number // its place in the log, from 0 on, which is that of its leaf
	Time    Time   // when, by the clock of the node
	Node    Name   // which node wrote it
	Actor   Actor
	Action  Action
	Object  Object
	Outcome Outcome
	Plan    key.ID // the plan it is a step of; zero for none
	Details Details
}

// Actor is who did it.
type Actor struct {
	Name Principal
	Auth Auth
}

// Object is what it was done to. Which fields are used depends on the kind.
type Object struct {
	Kind   ObjectKind
	Name   Name   // of a person: their [Principal]
	Number Number // the version of a key, the number of a grant
	ID     key.ID
}

// TimeOf returns t as a field of an entry, to the millisecond.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMilli())
}

// Time returns the instant in UTC, the zero time for none.
func (t Time) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(t)).UTC()
}

// String writes the instant to the second.
func (t Time) String() string { return t.Time().Format(time.RFC3339) }

// Check returns an error that names the field that is wrong. An entry that does not pass is never encoded.
func (e *Entry) Check() error {
	of, err := setsOf(e.Action, e.Object.Kind)
	if err != nil {
		return fmt.Errorf("audit entry: %w", err)
	}
	if err := e.check(of); err != nil {
		return fmt.Errorf("audit entry %s: %w", e.Action, err)
	}
	return nil
}

func (e *Entry) check(of sets) error {
	if err := e.Seq.check(); err != nil {
		return fmt.Errorf("seq: %w", err)
	}
	if e.Time <= 0 || e.Time > maxNumber {
		return fmt.Errorf("time %d is none", e.Time)
	}
	if err := e.Node.check(); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := e.Actor.Name.check(); err != nil {
		return fmt.Errorf("actor: %w", err)
	}
	if err := oneOf("authentication", e.Actor.Auth, auths); err != nil {
		return err
	}
	if err := oneOf("outcome", e.Outcome, outcomes); err != nil {
		return err
	}
	if e.Actor.Auth == ByNothing && e.Outcome == Done {
		return fmt.Errorf("an actor who is not authenticated has done something")
	}
	if e.Action == LoginRefused && e.Outcome != Refused {
		return fmt.Errorf("a login that is not refused is no entry")
	}
	if err := e.Object.check(); err != nil {
		return err
	}
	return e.Details.check(of)
}

func (o *Object) check() error {
	p, ok := parts[o.Kind]
	if !ok {
		return fmt.Errorf("unknown kind of object %q", string(o.Kind))
	}
	if p.name {
		err := o.Name.check()
		if o.Kind == KindPerson { // is called as it is when it acts
			err = matches(principalRE, "principal", string(o.Name))
		}
		if err != nil {
			return fmt.Errorf("object: %w", err)
		}
	}
	if p.name == (o.Name == "") || p.number == (o.Number == 0) || p.id == (o.ID == key.ID{}) {
		return fmt.Errorf("object: a %s has name=%v number=%v id=%v, and this one is not so", o.Kind, p.name, p.number, p.id)
	}
	return o.Number.check()
}

func (o *Object) write(dst []byte) []byte {
	dst = append(dst, '{')
	if o.ID != (key.ID{}) {
		dst = append(dst, `"id":`...)
		dst = append(writeHex(dst, o.ID[:]), ',')
	}
	dst = append(dst, `"kind":`...)
	dst = writeText(dst, o.Kind)
	if o.Name != "" {
		dst = append(dst, `,"name":`...)
		dst = writeText(dst, o.Name)
	}
	if o.Number != 0 {
		dst = append(dst, `,"number":`...)
		dst = writeNumber(dst, o.Number)
	}
	return append(dst, '}')
}

func (o *Object) read(s *scanner) error {
	if err := s.want("{"); err != nil {
		return err
	}
	if s.optional(`"id":`) {
		if err := readHex(s, o.ID[:]); err != nil {
			return err
		}
		if err := s.want(","); err != nil {
			return err
		}
	}
	if err := s.want(`"kind":`); err != nil {
		return err
	}
	if err := readText(s, &o.Kind); err != nil {
		return err
	}
	if s.optional(`,"name":`) {
		if err := readText(s, &o.Name); err != nil {
			return err
		}
	}
	if s.optional(`,"number":`) {
		if err := readNumber(s, &o.Number); err != nil {
			return err
		}
	}
	return s.want("}")
}

func (s *scanner) optional(lit string) bool {
	if bytes.HasPrefix(s.b[s.i:], []byte(lit)) {
		s.i += len(lit)
		return true
	}
	return false
}

// Encode checks the entry and returns its canonical form, the leaf of the tree. The caller owns the result.
func (e *Entry) Encode() ([]byte, error) { return e.append(make([]byte, 0, 512)) }

func (e *Entry) append(dst []byte) ([]byte, error) {
	of, err := setsOf(e.Action, e.Object.Kind)
	if err != nil {
		return nil, fmt.Errorf("audit entry: %w", err)
	}
	if err := e.check(of); err != nil {
		return nil, fmt.Errorf("audit entry %s: %w", e.Action, err)
	}
	return e.write(dst, of), nil
}

func (e *Entry) write(dst []byte, of sets) []byte {
	dst = append(dst, `{"action":`...)
	dst = writeText(dst, e.Action)
	dst = append(dst, `,"actor":{"auth":`...)
	dst = writeText(dst, e.Actor.Auth)
	dst = append(dst, `,"name":`...)
	dst = writeText(dst, e.Actor.Name)
	dst = append(dst, '}')
	if of.must|e.Details.present() != 0 {
		dst = append(dst, `,"details":`...)
		dst = e.Details.write(dst, of)
	}
	dst = append(dst, `,"node":`...)
	dst = writeText(dst, e.Node)
	dst = append(dst, `,"object":`...)
	dst = e.Object.write(dst)
	dst = append(dst, `,"outcome":`...)
	dst = writeText(dst, e.Outcome)
	if e.Plan != (key.ID{}) {
		dst = append(dst, `,"plan":`...)
		dst = writeHex(dst, e.Plan[:])
	}
	dst = append(dst, `,"seq":`...)
	dst = writeNumber(dst, e.Seq)
	dst = append(dst, `,"time":`...)
	dst = writeNumber(dst, e.Time)
	dst = append(dst, `,"v":`...)
	return append(strconv.AppendInt(dst, format, 10), '}')
}

// Decode reads an entry in canonical form. Every other form is an error, so that one entry has one hash.
func Decode(b []byte) (*Entry, error) {
	if len(b) > maxEntry {
		return nil, fmt.Errorf("audit entry of %d bytes: at most %d", len(b), maxEntry)
	}
	e := new(Entry)
	if err := e.read(&scanner{b: b}); err != nil {
		return nil, fmt.Errorf("audit entry: %w", err)
	}
	// The reader lets fields pass whose zero value is written but would be left out, so the last word is the writer's.
	again, err := e.append(make([]byte, 0, len(b)))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("audit entry: %w", errSyntax)
	}
	return e, nil
}

func (e *Entry) read(s *scanner) error {
	var v Number
	steps := []struct {
		lit      string
		optional bool
		read     func() error
	}{
		{`{"action":`, false, func() error { return readText(s, &e.Action) }},
		{`,"actor":{"auth":`, false, func() error { return readText(s, &e.Actor.Auth) }},
		{`,"name":`, false, func() error { return readText(s, &e.Actor.Name) }},
		{`}`, false, nil},
		{`,"details":`, true, func() error { return e.Details.read(s) }},
		{`,"node":`, false, func() error { return readText(s, &e.Node) }},
		{`,"object":`, false, func() error { return e.Object.read(s) }},
		{`,"outcome":`, false, func() error { return readText(s, &e.Outcome) }},
		{`,"plan":`, true, func() error { return readHex(s, e.Plan[:]) }},
		{`,"seq":`, false, func() error { return readNumber(s, &e.Seq) }},
		{`,"time":`, false, func() error { return readNumber(s, &e.Time) }},
		{`,"v":`, false, func() error { return readNumber(s, &v) }},
		{`}`, false, nil},
	}
	for _, st := range steps {
		if st.optional && !bytes.HasPrefix(s.b[s.i:], []byte(st.lit)) {
			continue
		}
		if err := s.want(st.lit); err != nil {
			return err
		}
		if st.read == nil {
			continue
		}
		if err := st.read(); err != nil {
			return err
		}
	}
	if v != format {
		return fmt.Errorf("format %d is not %d, the one this program knows", v, format)
	}
	return s.end()
}

func writeNumber[T ~int64](dst []byte, v T) []byte { return strconv.AppendInt(dst, int64(v), 10) }

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
