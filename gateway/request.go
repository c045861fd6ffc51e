package gateway

import (
	"bytes"
	"encoding/base64"
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

// fieldTable has the fields in the order in which a missing one is told. "plaintext" is two fields: see member.
var fieldTable = [...]struct {
	name string
	f    field
}{
	{"id", fID}, {"op", fOp}, {"key", fKey}, {"version", fVersion}, {"message", fMessage}, {"digest", fDigest}, {"hash", fHash}, {"padding", fPadding},
	{"encoding", fEncoding}, {"signature", fSignature}, {"plaintext", fPlaintext}, {"ciphertext", fCiphertext}, {"aad", fAAD},
	{"plaintext_key", fPlaintextKey}, {"wrapped", fWrapped}, {"format", fFormat}, {"mac", fMAC}, {"bits", fBits}, {"bytes", fBytes},
}

var fieldNames = func() map[string]field {
	m := map[string]field{}
	for _, r := range fieldTable {
		m[r.name] = r.f
	}
	return m
}()

// Encodings that take one text for each value and no other: no bits beside the last byte.
var (
	stdBase64 = base64.StdEncoding.Strict()
	urlBase64 = base64.RawURLEncoding.Strict()
)

// request is the decoded body of any call. Its bytes are parts of scratch and of the body, both of which are wiped.
type request struct {
	has field

	Message, Digest, Signature, Plaintext, AAD, PlaintextKey, MAC []byte
	Ciphertext, Wrapped                                           []byte // text still: its form depends on the key
	Hash, Padding, Encoding, Format, Op, Key                      string
	ID                                                            string // as JSON
	Bits, Bytes                                                   int
	Version                                                       uint32
	WantPlain                                                     bool

	scratch []byte
}

// keep is the largest buffer that is kept for the next request.
const keep = 64 << 10

// reset wipes the request and makes it ready for another.
func (r *request) reset() {
	clear(r.scratch[:cap(r.scratch)])
	s := r.scratch[:0]
	if cap(s) > keep {
		s = nil
	}
	*r = request{scratch: s}
}

// parse reads a whole body, in which it may resolve escapes.
func (r *request) parse(body []byte, takes field) *Error {
	// Base64 is longer than what it stands for, so a scratch as long as the body never grows, and nothing is left
	// behind unwiped.
	if cap(r.scratch) < len(body) {
		r.scratch = make([]byte, 0, len(body))
	}
	p := parser{b: body}
	if e := p.object(r, takes); e != nil {
		return e
	}
	return p.end()
}

// object reads one object whose members are among takes into r. Where an id may be one of them, it is looked for even
// behind a member that is wrong.
func (p *parser) object(r *request, takes field) (first *Error) {
	if !p.next('{') {
		return fail(Malformed, "a JSON object was expected at byte %d", p.i)
	}
	if p.next('}') {
		return nil
	}
	for {
		name, e := p.str()
		if e == nil && !p.next(':') {
			e = fail(Malformed, "a colon was expected at byte %d", p.i)
		}
		if e != nil {
			return either(first, e)
		}
		p.space()
		value := p.i
		if e := p.member(r, takes, name); e != nil {
			if takes&fID == 0 {
				return e
			}
			first = either(first, e)
			if p.i = value; p.skip() != nil {
				return first
			}
		}
		if p.next('}') {
			return first
		}
		if !p.next(',') {
			return either(first, fail(Malformed, "a comma or the end of the object was expected at byte %d", p.i))
		}
	}
}

func either(a, b *Error) *Error {
	if a != nil {
		return a
	}
	return b
}

// member reads the value of one member. "plaintext" is a boolean for datakey and bytes for encrypt; where both
// may come, in a batch, the value tells.
func (p *parser) member(r *request, takes field, name []byte) *Error {
	f := fieldNames[string(name)]
	both := fPlaintext | fWantPlain
	if f == fPlaintext && (takes&both == fWantPlain || takes&both == both && p.peek() != '"') {
		f = fWantPlain
	}
	if f&takes == 0 {
		return fail(Malformed, "unknown field %s", printable(name))
	}
	if r.has&f != 0 || f&both != 0 && r.has&both != 0 {
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
	case fID:
		if c := p.peek(); c >= '0' && c <= '9' {
			n, e = p.number(name, 1<<53)
			r.ID = strconv.Itoa(n)
			return e
		}
	}
	s, e := p.str()
	if e != nil {
		return fail(Malformed, "%s: %s", name, e.Detail)
	}
	return r.set(f, name, s)
}

// set puts the bytes of a string where they belong.
func (r *request) set(f field, name, s []byte) *Error {
	var text *string
	var b *[]byte
	switch f {
	case fCiphertext:
		r.Ciphertext = s
		return nil
	case fWrapped:
		r.Wrapped = s
		return nil
	case fHash:
		text = &r.Hash
	case fPadding:
		text = &r.Padding
	case fEncoding:
		text = &r.Encoding
	case fFormat:
		text = &r.Format
	case fOp:
		text = &r.Op
	case fKey:
		text = &r.Key
	case fID:
		text = &r.ID
	case fMessage:
		b = &r.Message
	case fDigest:
		b = &r.Digest
	case fSignature:
		b = &r.Signature
	case fPlaintext:
		b = &r.Plaintext
	case fAAD:
		b = &r.AAD
	case fPlaintextKey:
		b = &r.PlaintextKey
	case fMAC:
		b = &r.MAC
	}
	if text == nil {
		var e *Error
		*b, e = r.decode(stdBase64, name, s, "not standard base64 with padding")
		return e
	}
	if !utf8.Valid(s) {
		return fail(Malformed, "%s: not UTF-8", name)
	}
	*text = string(s)
	if f == fID {
		r.ID = string(appendString(nil, r.ID))
	}
	return nil
}

// decode reads base64 into scratch. The decoder of the standard library passes over line
// breaks, which would give one value many texts.
func (r *request) decode(enc *base64.Encoding, name, s []byte, wrong string) ([]byte, *Error) {
	at := len(r.scratch)
	out, err := enc.AppendDecode(r.scratch, s)
	if err != nil || bytes.IndexByte(s, '\n') >= 0 || bytes.IndexByte(s, '\r') >= 0 {
		return nil, fail(Malformed, "%s: %s", name, wrong)
	}
	r.scratch = out
	return out[at:len(out):len(out)], nil
}

// need names the first of the fields that is missing.
func (r *request) need(fields field) *Error {
	missing := fields &^ r.has
	if missing == 0 {
		return nil
	}
	for _, row := range fieldTable {
		if missing&row.f != 0 {
			return fail(Malformed, "%s: the field is missing", row.name)
		}
	}
	return nil
}

// only says which member of the request is not among takes, once it is known what it takes.
func (r *request) only(takes field) *Error {
	extra := r.has &^ takes
	switch {
	case extra == 0:
		return nil
	case extra&fPlaintext != 0 && takes&fWantPlain != 0:
		return fail(Malformed, "plaintext: true or false was expected")
	case extra&fWantPlain != 0 && takes&fPlaintext != 0:
		return fail(Malformed, "plaintext: a string was expected")
	case extra&fWantPlain != 0:
		extra |= fPlaintext
	}
	for _, row := range fieldTable {
		if extra&row.f != 0 {
			return fail(Malformed, "unknown field %q", row.name)
		}
	}
	return nil
}
