package gateway

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// field is a member of a request's JSON object.
type field uint32

// The fields, as bits, so that each call states in one word which it takes.
const (
	fMessage field = 1 << iota
	fDigest
	fHash
	fPadding
	fEncoding
	fSignature
	fPlaintext
	fCiphertext
	fAAD
	fPlaintextKey
	fWrapped
	fFormat
	fMAC
	fBits
	fWantPlain // "plaintext" of datakey, a boolean
	fBytes
	fVersion
	fID
	fOp
	fKey
)

var fieldNames = map[string]field{
	"message": fMessage, "digest": fDigest, "hash": fHash, "padding": fPadding, "encoding": fEncoding, "signature": fSignature,
	"plaintext": fPlaintext, "ciphertext": fCiphertext, "aad": fAAD, "plaintext_key": fPlaintextKey, "wrapped": fWrapped,
	"format": fFormat, "mac": fMAC, "bits": fBits, "bytes": fBytes, "version": fVersion, "id": fID, "op": fOp, "key": fKey,
}

// request is the decoded body of any call. Its byte fields point into scratch, which is wiped with the Call.
type request struct {
	has field

	Message, Digest, Signature, Plaintext, AAD, PlaintextKey, MAC []byte
	Ciphertext, Wrapped                                           string // not base64 where they are self-describing
	Hash, Padding, Encoding, Format, ID, Op, Key                  string
	Bits, Bytes                                                   int
	Version                                                       uint32
	WantPlain                                                     bool

	scratch []byte
}

func (r *request) reset() {
	clear(r.scratch[:cap(r.scratch)])
	s := r.scratch[:0]
	if cap(s) > 64<<10 {
		s = nil
	}
	*r = request{scratch: s}
}

// parser reads strict JSON, a byte at a time; it knows objects, arrays, strings, whole numbers and
// booleans, which is all the API takes.
type parser struct {
	b []byte
	i int
}

func (p *parser) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\n' || p.b[p.i] == '\t' || p.b[p.i] == '\r') {
		p.i++
	}
}

// next skips white space and takes c if it comes next.
func (p *parser) next(c byte) bool {
	p.space()
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *parser) end() *Error {
	p.space()
	if p.i != len(p.b) {
		return fail(Malformed, "the body goes on after its JSON value, at byte %d", p.i)
	}
	return nil
}

// str returns the bytes of a string, which are those of the body unless it has escapes.
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
			return p.escaped(from)
		case c < 0x20:
			return nil, fail(Malformed, "a control character in a string at byte %d", p.i)
		}
	}
	return nil, fail(Malformed, "a string that begins at byte %d does not end", from)
}

// escaped is the rare case: it leaves escapes to encoding/json.
func (p *parser) escaped(from int) ([]byte, *Error) {
	for ; p.i < len(p.b); p.i++ {
		if p.b[p.i] == '\\' {
			p.i++
			continue
		}
		if p.b[p.i] == '"' {
			var s string
			if err := json.Unmarshal(p.b[from-1:p.i+1], &s); err != nil {
				return nil, fail(Malformed, "a string that begins at byte %d is not JSON", from)
			}
			p.i++
			return []byte(s), nil
		}
	}
	return nil, fail(Malformed, "a string that begins at byte %d does not end", from)
}

// number reads a whole number up to limit.
func (p *parser) number(name []byte, limit int) (int, *Error) {
	p.space()
	from := p.i
	for p.i < len(p.b) && p.b[p.i] >= '0' && p.b[p.i] <= '9' {
		p.i++
	}
	n, err := strconv.Atoi(string(p.b[from:p.i]))
	if err != nil || n > limit || p.i-from > 1 && p.b[from] == '0' {
		return 0, fail(Malformed, "%s: a whole number from 0 to %d was expected", name, limit)
	}
	if p.i < len(p.b) && (p.b[p.i] == '.' || p.b[p.i] == 'e' || p.b[p.i] == 'E') {
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

// object reads one object whose members are among takes into r.
func (p *parser) object(r *request, takes field) *Error {
	if !p.next('{') {
		return fail(Malformed, "a JSON object was expected at byte %d", p.i)
	}
	if p.next('}') {
		return nil
	}
	for {
		p.space()
		name, e := p.str()
		if e != nil {
			return e
		}
		if !p.next(':') {
			return fail(Malformed, "a colon was expected at byte %d", p.i)
		}
		if e := p.member(r, takes, name); e != nil {
			return e
		}
		if p.next('}') {
			return nil
		}
		if !p.next(',') {
			return fail(Malformed, "a comma or the end of the object was expected at byte %d", p.i)
		}
	}
}

func (p *parser) member(r *request, takes field, name []byte) *Error {
	f := fieldNames[string(name)]
	if f == fPlaintext && takes&fWantPlain != 0 {
		f = fWantPlain
	}
	if f&takes == 0 {
		return fail(Malformed, "unknown field %s", printable(name))
	}
	if r.has&f != 0 {
		return fail(Malformed, "%s: the field stands twice", name)
	}
	r.has |= f
	var e *Error
	var n int
	switch f {
	case fBits:
		r.Bits, e = p.number(name, 1<<16)
		return e
	case fBytes:
		r.Bytes, e = p.number(name, 1<<30)
		return e
	case fVersion:
		n, e = p.number(name, 1<<31)
		r.Version = uint32(n)
		return e
	case fWantPlain:
		r.WantPlain, e = p.boolean(name)
		return e
	}
	p.space()
	s, e := p.str()
	if e != nil {
		return fail(Malformed, "%s: %s", name, e.Detail)
	}
	if text := r.text(f); text != nil {
		if !utf8.Valid(s) {
			return fail(Malformed, "%s: not UTF-8", name)
		}
		*text = string(s)
		return nil
	}
	return r.decode(f, name, s)
}

// text returns where a field of plain text goes, nil for one of bytes.
func (r *request) text(f field) *string {
	switch f {
	case fHash:
		return &r.Hash
	case fPadding:
		return &r.Padding
	case fEncoding:
		return &r.Encoding
	case fFormat:
		return &r.Format
	case fCiphertext:
		return &r.Ciphertext
	case fWrapped:
		return &r.Wrapped
	case fID:
		return &r.ID
	case fOp:
		return &r.Op
	case fKey:
		return &r.Key
	}
	return nil
}

// decode reads standard base64 into scratch. Base64 is longer than what it stands for, so a
// scratch as long as the body never grows, and nothing is left behind unwiped.
func (r *request) decode(f field, name, s []byte) *Error {
	at := len(r.scratch)
	out, err := base64.StdEncoding.Strict().AppendDecode(r.scratch, s)
	if err != nil {
		return fail(Malformed, "%s: not standard base64 with padding", name)
	}
	r.scratch = out
	v := out[at:len(out):len(out)]
	switch f {
	case fMessage:
		r.Message = v
	case fDigest:
		r.Digest = v
	case fSignature:
		r.Signature = v
	case fPlaintext:
		r.Plaintext = v
	case fAAD:
		r.AAD = v
	case fPlaintextKey:
		r.PlaintextKey = v
	case fMAC:
		r.MAC = v
	}
	return nil
}

// parse reads a whole body.
func (r *request) parse(body []byte, takes field) *Error {
	if cap(r.scratch) < len(body) {
		r.scratch = make([]byte, 0, len(body))
	}
	p := &parser{b: body}
	if e := p.object(r, takes); e != nil {
		return e
	}
	return p.end()
}

// need names the first of the fields that is missing.
func (r *request) need(fields field) *Error {
	for name, f := range fieldNames {
		if fields&f != 0 && r.has&f == 0 {
			return fail(Malformed, "%s: the field is missing", name)
		}
	}
	return nil
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
