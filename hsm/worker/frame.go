package worker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"keyway/hsm"
)

// A frame is a 4-byte little-endian length of what follows, then verb (1 byte),
// session (4 bytes), sequence (4 bytes), then the verb's fields. Byte strings are
// a 4-byte length and the bytes; numbers are little-endian. An answer has the verb of
// its question with the answer bit set.

// maxFrame bounds a frame, in bytes. The gateway's bodies are smaller by far.
const maxFrame = 32 << 20

// headSize is the length of verb, session and sequence.
const headSize = 9

const (
	verbHello byte = iota + 1
	verbPing
	verbOpen
	verbClose
	verbDo
	verbFind
	verbGenerate
	verbPublic
	verbImport
	verbWrap
	verbUnwrap
	verbDestroy
	answerBit byte = 0x80
)

var errFrame = errors.New("malformed frame")

// head is what every frame begins with.
type head struct {
	verb    byte
	session uint32
	seq     uint32
}

// begin appends a frame's length, still 0, and its head; end fills the length in.
func begin(b []byte, h head) []byte {
	b = append(b, 0, 0, 0, 0, h.verb)
	b = binary.LittleEndian.AppendUint32(b, h.session)
	return binary.LittleEndian.AppendUint32(b, h.seq)
}

// end completes the frame that starts at b[start].
func end(b []byte, start int) []byte {
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

func putBytes(b, v []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
	return append(b, v...)
}

// fields reads a frame's fields in order; the first one that does not fit sets bad, and
// every later one is zero.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if f.bad || n < 0 || len(f.b) < n {
		f.bad = true
		return nil
	}
	v := f.b[:n:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) u8() byte {
	if v := f.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (f *fields) u32() uint32 {
	if v := f.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (f *fields) u64() uint64 {
	if v := f.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// bytes returns a slice of the frame itself.
func (f *fields) bytes() []byte { return f.take(int(f.u32())) }

// done reports whether every field fitted and nothing is left over.
func (f *fields) done() error {
	if f.bad || len(f.b) != 0 {
		return errFrame
	}
	return nil
}

func parseHead(b []byte) (head, *fields, error) {
	f := &fields{b: b}
	h := head{verb: f.u8(), session: f.u32(), seq: f.u32()}
	if f.bad {
		return head{}, nil, errFrame
	}
	return h, f, nil
}

// putOp appends the question of verbDo.
func putOp(b []byte, op *hsm.Op) []byte {
	b = append(b, byte(op.Kind), byte(op.Mech.Hash))
	b = binary.LittleEndian.AppendUint32(b, uint32(op.Mech.Type))
	b = binary.LittleEndian.AppendUint64(b, uint64(op.Key))
	b = binary.LittleEndian.AppendUint32(b, uint32(op.Len))
	b = putBytes(b, op.Mech.AAD)
	return putBytes(b, op.In)
}

// takeOp reads what putOp wrote; In and AAD are slices of the frame.
func takeOp(f *fields, op *hsm.Op) error {
	op.Kind = hsm.OpKind(f.u8())
	op.Mech.Hash = hsm.Hash(f.u8())
	op.Mech.Type = hsm.MechanismType(f.u32())
	op.Key = hsm.Handle(f.u64())
	op.Len = int(f.u32())
	op.Mech.AAD = f.bytes()
	op.In = f.bytes()
	return f.done()
}

func putSpec(b []byte, s hsm.Spec) []byte {
	var flags byte
	if s.Token {
		flags |= 1
	}
	if s.Extractable {
		flags |= 2
	}
	b = append(b, byte(s.Class), byte(s.Type), byte(s.May), flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Bits))
	b = putBytes(b, s.ID)
	return putBytes(b, []byte(s.Label))
}

func takeSpec(f *fields) hsm.Spec {
	s := hsm.Spec{Class: hsm.Class(f.u8()), Type: hsm.KeyType(f.u8()), May: hsm.Permission(f.u8())}
	flags := f.u8()
	s.Token, s.Extractable = flags&1 != 0, flags&2 != 0
	s.Bits = int(f.u32())
	s.ID = append([]byte(nil), f.bytes()...)
	s.Label = string(f.bytes())
	return s
}

// sentinels are the errors that keep their identity across the border, by number; never reorder.
var sentinels = []error{
	hsm.ErrNotFound, hsm.ErrAmbiguous, hsm.ErrClosed, hsm.ErrLinkLost, hsm.ErrHung, hsm.ErrUnsupported, hsm.ErrInput, hsm.ErrSignature,
}

const (
	errNone byte = iota
	errToken
	errSentinel
	errText
)

// putErr appends an error so that its identity and fault survive. Texts are the drivers' own and hold no input.
func putErr(b []byte, err error) []byte {
	var te *hsm.Error
	if err == nil {
		return append(b, errNone)
	}
	if errors.As(err, &te) {
		b = append(b, errToken, byte(te.Function))
		b = binary.LittleEndian.AppendUint64(b, uint64(te.Code))
		b = putBytes(b, []byte(te.Vendor))
		return putBytes(b, []byte(err.Error()))
	}
	// The narrowest sentinel stands last, so the last one that fits is it.
	for i := len(sentinels) - 1; i >= 0; i-- {
		if errors.Is(err, sentinels[i]) {
			b = append(b, errSentinel, byte(i))
			return putBytes(b, []byte(err.Error()))
		}
	}
	return putBytes(append(b, errText), []byte(err.Error()))
}

func takeErr(f *fields) error {
	switch f.u8() {
	case errNone:
		return nil
	case errToken:
		te := &hsm.Error{Function: hsm.Function(f.u8()), Code: hsm.Code(f.u64())}
		te.Vendor = hsm.Vendor(f.bytes())
		return worded(te, string(f.bytes()))
	case errSentinel:
		i := int(f.u8())
		text := string(f.bytes())
		if i < len(sentinels) {
			return worded(sentinels[i], text)
		}
		f.bad = true
		return errFrame
	case errText:
		return errors.New(string(f.bytes()))
	}
	f.bad = true
	return errFrame
}

// worded gives err the text it had on the other side.
func worded(err error, text string) error {
	if text == "" || text == err.Error() {
		return err
	}
	return &remoteError{text, err}
}

// remoteError is an error of the other side: its text there, and what it is here.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// tooLarge says that a frame does not fit.
func tooLarge(n int) error {
	return fmt.Errorf("%w: %d bytes are more than the %d a worker takes at once", hsm.ErrInput, n, maxFrame)
}
