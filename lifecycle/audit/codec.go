package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"

	"keyway/lifecycle/key"
)

// value is a field that can be written and read in its one canonical form (RFC 8785): strings without any escape that is
// not needed, integers without a fraction, no white space. Controls have no place in any value, so of the
// escapes only \" and \\ occur.
type value interface {
	write(dst []byte) []byte
	read(s *scanner) error
	zero() bool
	check() error
}

// maxNumber is the largest integer that every reader of JSON keeps exactly.
const maxNumber = 1<<53 - 1

// maxList is how many items a list may have.
const maxList = 256

var errSyntax = errors.New("not in canonical form")

// scanner reads canonical JSON.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) errorf(format string, a ...any) error {
	return fmt.Errorf("%w at byte %d: %s", errSyntax, s.i, fmt.Sprintf(format, a...))
}

func (s *scanner) next(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) want(lit string) error {
	if !bytes.HasPrefix(s.b[s.i:], []byte(lit)) {
		return s.errorf("want %s", lit)
	}
	s.i += len(lit)
	return nil
}

func (s *scanner) end() error {
	if s.i != len(s.b) {
		return s.errorf("something follows the end")
	}
	return nil
}

// raw reads a string and returns its bytes, which may be part of the input.
func (s *scanner) raw() ([]byte, error) {
	if !s.next('"') {
		return nil, s.errorf("want a string")
	}
	start := s.i
	var out []byte
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			if out == nil {
				return s.b[start : s.i-1], nil
			}
			return out, nil
		case c == '\\':
			if out == nil {
				out = append(make([]byte, 0, 64), s.b[start:s.i]...)
			}
			s.i++
			if s.i == len(s.b) || s.b[s.i] != '"' && s.b[s.i] != '\\' {
				return nil, s.errorf("an escape that is not needed")
			}
			out = append(out, s.b[s.i])
			s.i++
		case c < 0x20:
			return nil, s.errorf("a control character")
		default:
			if out != nil {
				out = append(out, c)
			}
			s.i++
		}
	}
	return nil, s.errorf("a string without an end")
}

func readText[T ~string](s *scanner, v *T) error {
	b, err := s.raw()
	if err == nil && !utf8.Valid(b) {
		err = s.errorf("a string that is not UTF-8")
	}
	*v = T(b)
	return err
}

func writeText[T ~string](dst []byte, v T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(v); i++ {
		if v[i] == '"' || v[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, v[i])
	}
	return append(dst, '"')
}

func readNumber[T ~int64](s *scanner, v *T) error {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	n, err := strconv.ParseInt(string(s.b[start:s.i]), 10, 64)
	if err != nil || n > maxNumber || s.b[start] == '0' && s.i > start+1 {
		return s.errorf("want an integer between 0 and 2^53-1")
	}
	*v = T(n)
	return nil
}

func checkNumber[T ~int64](v T) error {
	if v < 0 || v > maxNumber {
		return fmt.Errorf("%d is not between 0 and 2^53-1", v)
	}
	return nil
}

func readHex(s *scanner, dst []byte) error {
	b, err := s.raw()
	if err != nil {
		return err
	}
	if len(b) != 2*len(dst) || bytes.ContainsAny(b, "ABCDEF") {
		return s.errorf("want %d lower-case hexadecimal digits", 2*len(dst))
	}
	if _, err := hex.Decode(dst, b); err != nil {
		return s.errorf("want %d lower-case hexadecimal digits", 2*len(dst))
	}
	return nil
}

func writeHex(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, b)
	return append(dst, '"')
}

// list is a list of values as a value.
type list[T any, P interface {
	*T
	value
}] struct{ l *[]T }

func (l list[T, P]) zero() bool { return len(*l.l) == 0 }

func (l list[T, P]) write(dst []byte) []byte {
	dst = append(dst, '[')
	for i := range *l.l {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = P(&(*l.l)[i]).write(dst)
	}
	return append(dst, ']')
}

func (l list[T, P]) read(s *scanner) error {
	if !s.next('[') {
		return s.errorf("want a list")
	}
	for {
		var v T
		if err := P(&v).read(s); err != nil {
			return err
		}
		if *l.l = append(*l.l, v); len(*l.l) > maxList {
			return s.errorf("a list of more than %d items", maxList)
		}
		if s.next(']') {
			return nil
		}
		if !s.next(',') {
			return s.errorf("want a comma or the end of a list")
		}
	}
}

func (l list[T, P]) check() error {
	if len(*l.l) > maxList {
		return fmt.Errorf("a list of %d items: at most %d", len(*l.l), maxList)
	}
	for i := range *l.l {
		if P(&(*l.l)[i]).zero() {
			return fmt.Errorf("item %d of a list is empty", i)
		}
		if err := P(&(*l.l)[i]).check(); err != nil {
			return err
		}
	}
	return nil
}

// stateValue, eventValue, usageValue and algorithmValue are the vocabulary of package key as values.
type (
	stateValue     key.State
	eventValue     key.Event
	usageValue     key.Usage
	algorithmValue key.Algorithm
)

func (v *stateValue) zero() bool              { return *v == 0 }
func (v *stateValue) write(dst []byte) []byte { return writeText(dst, key.State(*v).String()) }
func (v *stateValue) check() error            { _, err := key.ParseState(key.State(*v).String()); return err }
func (v *stateValue) read(s *scanner) error {
	var t string
	if err := readText(s, &t); err != nil {
		return err
	}
	x, err := key.ParseState(t)
	*v = stateValue(x)
	return err
}

func (v *eventValue) zero() bool              { return *v == 0 }
func (v *eventValue) write(dst []byte) []byte { return writeText(dst, key.Event(*v).String()) }
func (v *eventValue) check() error {
	if e := key.Event(*v); e < key.Activate || e > key.Destroy {
		return fmt.Errorf("unknown event %d", e)
	}
	return nil
}
func (v *eventValue) read(s *scanner) error {
	var t string
	if err := readText(s, &t); err != nil {
		return err
	}
	for e := key.Activate; e <= key.Destroy; e++ {
		if e.String() == t {
			*v = eventValue(e)
			return nil
		}
	}
	return fmt.Errorf("unknown event %q", t)
}

func (v *usageValue) zero() bool { return *v == 0 }
func (v *usageValue) write(dst []byte) []byte {
	dst = append(dst, '[')
	for i, n := range key.Usage(*v).Names() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = writeText(dst, n)
	}
	return append(dst, ']')
}
func (v *usageValue) check() error {
	if extra := key.Usage(*v) &^ (key.Originator | key.Recipient); extra != 0 {
		return fmt.Errorf("unknown usages %#x", uint16(extra))
	}
	return nil
}
func (v *usageValue) read(s *scanner) error {
	var names []string
	if !s.next('[') {
		return s.errorf("want a list of usages")
	}
	for {
		var n string
		if err := readText(s, &n); err != nil {
			return err
		}
		if names = append(names, n); len(names) > 64 {
			return s.errorf("too many usages")
		}
		if s.next(']') {
			break
		}
		if !s.next(',') {
			return s.errorf("want a comma or the end of a list")
		}
	}
	u, err := key.ParseUsages(names)
	if err == nil && !slices.Equal(u.Names(), names) {
		err = s.errorf("usages out of order")
	}
	*v = usageValue(u)
	return err
}

func (v *algorithmValue) zero() bool              { return *v == "" }
func (v *algorithmValue) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *algorithmValue) check() error            { _, err := key.Algorithm(*v).Info(); return err }
func (v *algorithmValue) read(s *scanner) error   { return readText(s, v) }
