package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"unicode"

	"keyway/hsm"
)

// answer is what the worker answers: what became of the call, and whether the session is lost.
type answer struct {
	head
	err  error  // what became of the call: op.Err of Do
	lost error  // what Do itself returned
	out  []byte // the rest of the frame: the result
}

// The error part of an answer is a byte of these, then the parts it announces, in this order.
const (
	hasCode     = 1 << iota // function, code, vendor of an *hsm.Error
	hasSentinel             // a set of sentinels
	hasText                 // the error's text, unless it follows from the above
	hasMore                 // in the first error of an answer: the session is lost, and how follows
)

// sentinels are the errors that keep their identity across the border: bit i of the set is
// sentinels[i]. Both ends are the same program, so the order may change between releases.
var sentinels = [...]error{
	hsm.ErrNotFound, hsm.ErrAmbiguous, hsm.ErrClosed, hsm.ErrLinkLost, hsm.ErrHung, hsm.ErrUnsupported, hsm.ErrInput,
	hsm.ErrSignature, context.Canceled, context.DeadlineExceeded,
}

// maxText bounds the text of an error, in bytes.
const maxText = 1 << 10

// size is at least the length of what append adds.
func (a *answer) size() int {
	n := sizeLen + headLen + 1 + len(a.out)
	for _, err := range []error{a.err, a.lost} {
		if err != nil {
			n += 1 + 1 + 8 + 4 + 255 + 2 + 4 + maxText
		}
	}
	return n
}

// append appends the answer as a frame.
func (a *answer) append(b []byte) []byte {
	start := len(b)
	h := a.head
	h.verb |= answerBit
	b = beginFrame(b, h)
	if a.lost != nil {
		b = appendError(b, a.err, hasMore)
		b = appendError(b, a.lost, 0)
	} else {
		b = appendError(b, a.err, 0)
	}
	return endFrame(append(b, a.out...), start)
}

// parse reads what append wrote; out is a slice of the frame.
func (a *answer) parse(f *fields) error {
	var more bool
	if a.err, more = parseError(f); more {
		if a.lost, more = parseError(f); more || a.lost == nil {
			return errFrame
		}
	}
	a.out = f.rest()
	return f.end()
}

// appendError writes err so that its text, its sentinels and its fault are the same on the other side.
// A driver's errors hold neither material nor input, so their text may travel.
func appendError(b []byte, err error, flags byte) []byte {
	if err == nil {
		return append(b, flags)
	}
	var code *hsm.Error
	if errors.As(err, &code) {
		flags |= hasCode
	}
	var set uint16
	for i, s := range sentinels {
		if errors.Is(err, s) {
			set |= 1 << i
		}
	}
	if set != 0 {
		flags |= hasSentinel
	}
	text := err.Error()
	if one := known(code, set); one == nil || one.Error() != text {
		flags |= hasText
	}
	b = append(b, flags)
	if flags&hasCode != 0 {
		vendor := code.Vendor[:min(len(code.Vendor), 255)]
		b = append(b, byte(code.Function))
		b = binary.LittleEndian.AppendUint64(b, uint64(code.Code))
		b = append(append(b, byte(len(vendor))), vendor...)
	}
	if flags&hasSentinel != 0 {
		b = binary.LittleEndian.AppendUint16(b, set)
	}
	if flags&hasText != 0 {
		b = appendBytes(b, []byte(text[:min(len(text), maxText)]))
	}
	return b
}

// parseError reads what appendError wrote and reports whether hasMore was set.
func parseError(f *fields) (error, bool) {
	flags := f.u8()
	if flags&^(hasCode|hasSentinel|hasText|hasMore) != 0 {
		f.bad = true
	}
	more := flags&hasMore != 0
	if f.bad || flags&^hasMore == 0 {
		return nil, more
	}
	var code *hsm.Error
	if flags&hasCode != 0 {
		code = &hsm.Error{Function: hsm.Function(f.u8()), Code: hsm.Code(f.u64())}
		code.Vendor = hsm.Vendor(f.take(uint64(f.u8())))
	}
	var set uint16
	if flags&hasSentinel != 0 {
		set = uint16(f.u8()) | uint16(f.u8())<<8
		if set == 0 || set>>len(sentinels) != 0 {
			f.bad = true
			return nil, more
		}
	}
	if flags&hasText == 0 {
		if one := known(code, set); one != nil {
			return one, more
		}
		f.bad = true
		return nil, more
	}
	text := f.bytes()
	if len(text) > maxText {
		f.bad = true
	}
	if f.bad {
		return nil, more
	}
	return &remoteError{text: printable(string(text)), code: code, set: set}, more
}

// printable replaces what could make a terminal or a log show something else: a token's words end up in both, and
// whoever has broken into a worker chooses them.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// known returns the error that code and set stand for when they stand for exactly one.
func known(code *hsm.Error, set uint16) error {
	if code != nil && set == 0 {
		return code
	}
	for i, s := range sentinels {
		// ErrSignature is also ErrInput, so a sentinel's own set may have more than its bit.
		var own uint16
		for j, t := range sentinels {
			if errors.Is(s, t) {
				own |= 1 << j
			}
		}
		if code == nil && set == own && set&(1<<i) != 0 {
			return sentinels[i]
		}
	}
	return nil
}

// remoteError is an error of the other side: its text there, and what it is here.
type remoteError struct {
	text string
	code *hsm.Error
	set  uint16
}

// Error returns the text the error had in the worker.
func (e *remoteError) Error() string { return e.text }

// Unwrap returns the token's code and the sentinels the error wrapped in the worker.
func (e *remoteError) Unwrap() []error {
	var all []error
	if e.code != nil {
		all = append(all, e.code)
	}
	for i, s := range sentinels {
		if e.set&(1<<i) != 0 {
			all = append(all, s)
		}
	}
	return all
}
