package worker

import (
	"bytes"
	"encoding/binary"
	"math"

	"keyway/hsm"
)

// fields reads a frame's fields in order. The first one that does not fit sets
// bad, and every later one is zero, so that callers look once, at the end. What
// it returns are slices of the frame.
type fields struct {
	b   []byte
	bad bool
}

// parseFrame reads a frame's head.
func parseFrame(frame []byte) (head, fields, error) {
	f := fields{b: frame}
	h := head{verb: verb(f.u8()), session: f.u32(), seq: f.u32()}
	if f.bad {
		return head{}, fields{}, errFrame
	}
	return h, f, nil
}

func (f *fields) take(n uint64) []byte {
	if f.bad || uint64(len(f.b)) < n {
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

// bytes reads a byte string, nil for an empty one: no field of a call tells the two apart.
func (f *fields) bytes() []byte {
	if v := f.take(uint64(f.u32())); len(v) > 0 {
		return v
	}
	return nil
}

// rest reads everything that is left, nil when nothing is.
func (f *fields) rest() []byte {
	if v := f.take(uint64(len(f.b))); len(v) > 0 {
		return v
	}
	return nil
}

func (f *fields) mechanism() hsm.Mechanism {
	return hsm.Mechanism{Type: hsm.MechanismType(f.u32()), Hash: hsm.Hash(f.u8()), AAD: f.bytes()}
}

func (f *fields) spec() hsm.Spec {
	s := hsm.Spec{Class: hsm.Class(f.u8()), Type: hsm.KeyType(f.u8()), May: hsm.Permission(f.u8())}
	flags := f.u8()
	if flags&^(specToken|specExtractable) != 0 {
		f.bad = true
	}
	s.Token, s.Extractable = flags&specToken != 0, flags&specExtractable != 0
	bits := f.u32()
	if bits > math.MaxInt32 {
		f.bad = true
	}
	s.Bits, s.ID, s.Label = int(bits), bytes.Clone(f.bytes()), string(f.bytes()) // a token may keep its ID
	return s
}

// end reports whether every field fitted and nothing is left over.
func (f *fields) end() error {
	if f.bad || len(f.b) != 0 {
		return errFrame
	}
	return nil
}
