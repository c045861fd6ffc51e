package gateway

import (
	"encoding/json"
	"strconv"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// parser reads strict JSON, a byte at a time; it knows objects, arrays, strings, whole numbers and
// booleans, which is all the API takes. It makes no copies: strings are parts of b, in which escapes are resolved
// in place, so that wiping b wipes everything.
type parser struct {
	b []byte
	i int
}

func (p *parser) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\n' || p.b[p.i] == '\t' || p.b[p.i] == '\r') {
		p.i++
	}
}

// peek skips white space and returns the byte that comes next, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.i < len(p.b) {
		return p.b[p.i]
	}
	return 0
}

// next skips white space and takes c if it comes next.
func (p *parser) next(c byte) bool {
	if p.peek() != c || p.i == len(p.b) {
		return false
	}
	p.i++
	return true
}

func (p *parser) end() *Error {
	p.space()
	if p.i != len(p.b) {
		return fail(Malformed, "the body goes on after its JSON value, at byte %d", p.i)
	}
	return nil
}

// str returns the bytes of a string: a part of b, which may have been written over.
func (p *parser) str() ([]byte, *Error) {
	start := p.i
	if !p.next('"') {
		return nil, fail(Malformed, "a string was expected at byte %d", start)
	}
	from := p.i
	for ; p.i < len(p.b); p.i++ {
		switch c := p.b[p.i]; {
		case c == '"':
			s := p.b[from:p.i]
			p.i++
			return s, nil
		case c == '\\':
			return p.unescape(from)
		case c < 0x20:
			return nil, fail(Malformed, "a control character in a string at byte %d", p.i)
		}
	}
	return nil, fail(Malformed, "a string that begins at byte %d does not end", from)
}

// unescape goes on with a string that began at from and has its first escape at i. What an
// escape stands for is never longer than the escape.
func (p *parser) unescape(from int) ([]byte, *Error) {
	w := p.i
	for p.i < len(p.b) {
		c := p.b[p.i]
		switch {
		case c == '"':
			p.i++
			return p.b[from:w], nil
		case c < 0x20:
			return nil, fail(Malformed, "a control character in a string at byte %d", p.i)
		case c == '\\':
			n, e := p.escape(w)
			if e != nil {
				return nil, e
			}
			w += n
		default:
			p.b[w] = c
			w++
			p.i++
		}
	}
	return nil, fail(Malformed, "a string that begins at byte %d does not end", from)
}

// escape writes what the escape at i stands for to b[w:], moves past it and returns how many bytes it wrote.
func (p *parser) escape(w int) (int, *Error) {
	at := p.i
	p.i += 2
	if p.i > len(p.b) {
		return 0, fail(Malformed, "a string ends in the middle of an escape at byte %d", at)
	}
	c := p.b[at+1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r := p.hex(p.i)
		if r < 0 {
			return 0, fail(Malformed, "a bad escape at byte %d", at)
		}
		p.i += 4
		if utf16.IsSurrogate(r) {
			// Half a pair alone is replaced, as encoding/json does.
			low := rune(-1)
			if p.i+2 <= len(p.b) && p.b[p.i] == '\\' && p.b[p.i+1] == 'u' {
				low = p.hex(p.i + 2)
			}
			if r = utf16.DecodeRune(r, low); r != unicode.ReplacementChar {
				p.i += 6
			}
		}
		return utf8.EncodeRune(p.b[w:], r), nil
	default:
		return 0, fail(Malformed, "a bad escape at byte %d", at)
	}
	p.b[w] = c
	return 1, nil
}

// hex reads four hexadecimal digits at i; -1 when there are none.
func (p *parser) hex(i int) rune {
	if i+4 > len(p.b) {
		return -1
	}
	n, err := strconv.ParseUint(string(p.b[i:i+4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// number reads a whole number from 0 to limit.
func (p *parser) number(name []byte, limit int) (int, *Error) {
	p.space()
	from := p.i
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		p.i++
	}
	n, err := strconv.Atoi(string(p.b[from:p.i]))
	goesOn := p.i < len(p.b) && (p.b[p.i] == '.' || p.b[p.i] == 'e' || p.b[p.i] == 'E')
	if err != nil || n > limit || goesOn || p.i-from > 1 && p.b[from] == '0' {
		return 0, fail(Malformed, "%s: a whole number from 0 to %d was expected", name, limit)
	}
	return n, nil
}

func (p *parser) boolean(name []byte) (bool, *Error) {
	p.space()
	for _, v := range []string{"true", "false"} {
		if len(p.b)-p.i >= len(v) && string(p.b[p.i:p.i+len(v)]) == v {
			p.i += len(v)
			return v == "true", nil
		}
	}
	return false, fail(Malformed, "%s: true or false was expected", name)
}

// skip moves past one value of any kind, looking at nothing but strings and brackets: whether it is JSON is
// for whoever reads it to say. It writes nothing.
func (p *parser) skip() *Error {
	p.space()
	start, depth := p.i, 0
	for ; p.i < len(p.b); p.i++ {
		switch p.b[p.i] {
		case '"':
			if e := p.skipString(); e != nil {
				return e
			}
			if depth == 0 {
				p.i++
				return nil
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return p.skipped(start)
			}
			if depth--; depth == 0 {
				p.i++
				return nil
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return p.skipped(start)
			}
		}
	}
	if depth > 0 {
		return fail(Malformed, "a value that begins at byte %d does not end", start)
	}
	return p.skipped(start)
}

func (p *parser) skipped(start int) *Error {
	if p.i == start {
		return fail(Malformed, "a value was expected at byte %d", start)
	}
	return nil
}

// skipString moves from a string's first quote to its last.
func (p *parser) skipString() *Error {
	start := p.i
	for p.i++; p.i < len(p.b); p.i++ {
		switch p.b[p.i] {
		case '"':
			return nil
		case '\\':
			p.i++
		}
	}
	return fail(Malformed, "a string that begins at byte %d does not end", start)
}

// printable quotes what somebody else wrote, shortened.
func printable(s []byte) string {
	if len(s) > 40 {
		s = s[:40]
	}
	return strconv.QuoteToASCII(string(s))
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			q, _ := json.Marshal(s) // a string always marshals
			return append(b, q...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
