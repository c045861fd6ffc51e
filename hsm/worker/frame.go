package worker

import (
	"encoding/binary"
	"errors"
	"fmt"

	"keyway/hsm"
)

// A frame is a 4-byte length of what follows, then verb (1 byte), session
// (4 bytes), sequence (4 bytes), then the verb's fields. Byte strings are a
// 4-byte length and the bytes; all numbers are little-endian. An answer has the
// verb of its question with the answer bit set.

// protocol is the number of this language. Both ends are the same program, except after its file
// was replaced while it runs: then the hello tells people what happened.
const protocol = 1

const (
	// maxFrame bounds a frame without its length, in bytes. The gateway's bodies are smaller by far.
	maxFrame = 8 << 20
	// maxData bounds what one call carries, so that the rest of its frame always has room.
	maxData = maxFrame - 4096
	// sizeLen and headLen are the lengths of a frame's length and of its head.
	sizeLen = 4
	headLen = 9
)

// verb says what a frame asks for.
type verb uint8

const (
	verbHello verb = iota + 1
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

	answerBit verb = 0x80
)

// errFrame is wrapped by what ends a connection on which the other end talks nonsense.
var errFrame = errors.New("malformed frame")

// head is what every frame begins with. Sequence 0 asks for no answer.
type head struct {
	verb    verb
	session uint32
	seq     uint32
}

// question is what the parent asks; each verb uses the fields it needs. Byte slices read from
// a frame are slices of it.
type question struct {
	head
	op    hsm.Op     // Do; Key is also the handle of Public, Wrap and Destroy, Mech that of Wrap and Unwrap
	kek   hsm.Handle // Wrap, Unwrap
	class hsm.Class  // Find
	data  []byte     // the CKA_ID of Find, the material of Import, the blob of Unwrap
	spec  hsm.Spec   // Generate, Import, Unwrap
}

// size is the exact length of what append adds, so that a buffer grows before it holds secrets, and not while.
func (q *question) size() int {
	const mech, spec = 4 + 1 + 4, 4 + 4 + 4 + 4
	n := sizeLen + headLen
	switch q.verb {
	case verbDo:
		n += 1 + 8 + 4 + mech + len(q.op.Mech.AAD) + len(q.op.In)
	case verbFind:
		n += 1 + len(q.data)
	case verbGenerate:
		n += spec + len(q.spec.ID) + len(q.spec.Label)
	case verbImport:
		n += spec + len(q.spec.ID) + len(q.spec.Label) + len(q.data)
	case verbPublic, verbDestroy:
		n += 8
	case verbWrap:
		n += 8 + 8 + mech + len(q.op.Mech.AAD)
	case verbUnwrap:
		n += 8 + mech + len(q.op.Mech.AAD) + spec + len(q.spec.ID) + len(q.spec.Label) + len(q.data)
	}
	return n
}

// append appends the question as a frame.
func (q *question) append(b []byte) []byte {
	start := len(b)
	b = beginFrame(b, q.head)
	switch q.verb {
	case verbDo:
		b = append(b, byte(q.op.Kind))
		b = binary.LittleEndian.AppendUint64(b, uint64(q.op.Key))
		b = binary.LittleEndian.AppendUint32(b, uint32(q.op.Len))
		b = append(appendMechanism(b, q.op.Mech), q.op.In...)
	case verbFind:
		b = append(append(b, byte(q.class)), q.data...)
	case verbGenerate:
		b = appendSpec(b, q.spec)
	case verbImport:
		b = append(appendSpec(b, q.spec), q.data...)
	case verbPublic, verbDestroy:
		b = binary.LittleEndian.AppendUint64(b, uint64(q.op.Key))
	case verbWrap:
		b = binary.LittleEndian.AppendUint64(b, uint64(q.kek))
		b = binary.LittleEndian.AppendUint64(b, uint64(q.op.Key))
		b = appendMechanism(b, q.op.Mech)
	case verbUnwrap:
		b = binary.LittleEndian.AppendUint64(b, uint64(q.kek))
		b = appendMechanism(b, q.op.Mech)
		b = append(appendSpec(b, q.spec), q.data...)
	}
	return endFrame(b, start)
}

// parse reads the fields of q's verb.
func (q *question) parse(f *fields) error {
	switch q.verb {
	case verbPing, verbOpen, verbClose:
	case verbDo:
		q.op.Kind = hsm.OpKind(f.u8())
		q.op.Key = hsm.Handle(f.u64())
		q.op.Len = int(f.u32())
		q.op.Mech = f.mechanism()
		q.op.In = f.rest()
	case verbFind:
		q.class = hsm.Class(f.u8())
		q.data = f.rest()
	case verbGenerate:
		q.spec = f.spec()
	case verbImport:
		q.spec = f.spec()
		q.data = f.rest()
	case verbPublic, verbDestroy:
		q.op.Key = hsm.Handle(f.u64())
	case verbWrap:
		q.kek = hsm.Handle(f.u64())
		q.op.Key = hsm.Handle(f.u64())
		q.op.Mech = f.mechanism()
	case verbUnwrap:
		q.kek = hsm.Handle(f.u64())
		q.op.Mech = f.mechanism()
		q.spec = f.spec()
		q.data = f.rest()
	default:
		return fmt.Errorf("%w: unknown verb %d", errFrame, q.verb)
	}
	return f.end()
}

// oversized says that a call does not fit a frame, nil when it does.
func (q *question) oversized() error {
	n := len(q.op.In) + len(q.op.Mech.AAD) + len(q.data) + len(q.spec.ID) + len(q.spec.Label)
	if q.verb == verbDo && q.op.Kind == hsm.OpRandom {
		n = max(n, q.op.Len)
	}
	if n > maxData {
		return fmt.Errorf("%w: %d bytes are more than the %d a token's worker takes at once; split the input", hsm.ErrInput, n, maxData)
	}
	if q.op.Len < 0 || q.spec.Bits < 0 {
		return fmt.Errorf("%w: negative length", hsm.ErrInput)
	}
	return nil
}

// beginFrame appends a length, still 0, and h.
func beginFrame(b []byte, h head) []byte {
	b = append(b, 0, 0, 0, 0, byte(h.verb))
	b = binary.LittleEndian.AppendUint32(b, h.session)
	return binary.LittleEndian.AppendUint32(b, h.seq)
}

// endFrame fills in the length of the frame that starts at b[start].
func endFrame(b []byte, start int) []byte {
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-sizeLen))
	return b
}

func appendBytes(b, v []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(v))), v...)
}

func appendMechanism(b []byte, m hsm.Mechanism) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Type))
	return appendBytes(append(b, byte(m.Hash)), m.AAD)
}

const (
	specToken = 1 << iota
	specExtractable
)

func appendSpec(b []byte, s hsm.Spec) []byte {
	var flags byte
	if s.Token {
		flags |= specToken
	}
	if s.Extractable {
		flags |= specExtractable
	}
	b = append(b, byte(s.Class), byte(s.Type), byte(s.May), flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Bits))
	b = appendBytes(b, s.ID)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Label)))
	return append(b, s.Label...)
}
