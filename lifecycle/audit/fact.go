package audit

import (
	"bytes"
	"fmt"
)

// Fact is what is so about one object at one moment: a line of a snapshot of the state. The facts of a log are what
// [Replay] derives from its entries, and what an export compares with is written by whoever keeps the state.
type Fact struct {
	Object  Object
	Details Details
}

// Encode checks the fact and returns its canonical form. The caller owns the result.
func (f *Fact) Encode() ([]byte, error) {
	of, ok := shapeSets[f.Object.Kind]
	if !ok {
		return nil, fmt.Errorf("audit: a %q has no state", string(f.Object.Kind))
	}
	err := f.Object.check()
	if err == nil {
		err = f.Details.check(of)
	}
	if err != nil {
		return nil, fmt.Errorf("audit: state of %s: %w", f.Object, err)
	}
	b := append(make([]byte, 0, 256), `{"details":`...)
	b = f.Details.write(b, of)
	b = append(b, `,"object":`...)
	return append(f.Object.write(b), '}'), nil
}

// DecodeFact reads what Encode writes, and nothing else.
func DecodeFact(b []byte) (*Fact, error) {
	if len(b) > maxEntry {
		return nil, fmt.Errorf("audit: a fact of %d bytes: at most %d", len(b), maxEntry)
	}
	f := new(Fact)
	s := &scanner{b: b}
	err := s.want(`{"details":`)
	if err == nil && !s.optional("{}") {
		err = f.Details.read(s)
	}
	if err == nil {
		err = s.want(`,"object":`)
	}
	if err == nil {
		err = f.Object.read(s)
	}
	if err == nil {
		err = s.want("}")
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, fmt.Errorf("audit: fact: %w", err)
	}
	again, err := f.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("audit: fact: %w", errSyntax)
	}
	return f, nil
}

// String names the object as people do.
func (o Object) String() string {
	switch o.Kind {
	case KindVersion:
		return fmt.Sprintf("key %s version %d", o.Name, o.Number)
	case KindGrant:
		return fmt.Sprintf("grant %d", o.Number)
	case KindPlan, KindJob:
		return fmt.Sprintf("%s %s", o.Kind, o.ID)
	case KindKEK:
		return "KEK " + string(o.Name)
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Name)
}
