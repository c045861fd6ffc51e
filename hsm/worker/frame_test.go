//go:build linux

package worker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"testing"

	"keyway/hsm"
)

// questions has one of each verb, with every field in use.
func questions() []question {
	spec := hsm.Spec{Class: hsm.ClassPrivate, Type: hsm.KeyRSA, Bits: 4096, ID: []byte{1, 2, 3}, Label: "label", Token: true, May: hsm.MaySign | hsm.MayUnwrap}
	mech := hsm.Mechanism{Type: hsm.AESGCM, Hash: hsm.SHA512, AAD: []byte("aad")}
	h := func(v verb) head { return head{v, 0xfffefdfc, 0x01020304} }
	return []question{
		{head: h(verbPing)}, {head: h(verbOpen)}, {head: h(verbClose)},
		{head: h(verbDo), op: hsm.Op{Kind: hsm.OpEncrypt, Mech: mech, Key: 1 << 60, In: []byte("in"), Len: 77}},
		{head: h(verbDo)},
		{head: h(verbFind), class: hsm.ClassSecret, data: []byte{9}},
		{head: h(verbGenerate), spec: spec},
		{head: h(verbPublic), op: hsm.Op{Key: 5}},
		{head: h(verbImport), spec: hsm.Spec{Extractable: true}, data: []byte("material")},
		{head: h(verbWrap), kek: 1, op: hsm.Op{Key: 2, Mech: mech}},
		{head: h(verbUnwrap), kek: 1, op: hsm.Op{Mech: mech}, spec: spec, data: []byte("blob")},
		{head: h(verbDestroy), op: hsm.Op{Key: 5}},
	}
}

// answers has one of each error, as the outcome, as the loss and as both.
func answers() []answer {
	h := head{verb: verbDo, session: 1, seq: 2}
	all := []answer{{head: h}, {head: h, out: []byte("out")}, {head: h, err: nil, lost: hsm.ErrClosed}}
	for _, err := range failures {
		all = append(all, answer{head: h, err: err}, answer{head: h, err: err, lost: err, out: []byte("x")})
	}
	return all
}

func TestQuestionRoundTrip(t *testing.T) {
	for _, q := range questions() {
		b := q.append(nil)
		if len(b) != q.size() {
			t.Errorf("verb %d: size says %d, frame has %d", q.verb, q.size(), len(b))
		}
		h, f, err := parseFrame(b[sizeLen:])
		got := question{head: h}
		if err != nil || got.parse(&f) != nil || !reflect.DeepEqual(got, q) {
			t.Errorf("verb %d: got %+v, %v, want %+v", q.verb, got, err, q)
		}
		for n := range len(b) - sizeLen { // no proper prefix of a frame with only fixed fields is a frame; none panics
			if h, f, err := parseFrame(b[sizeLen : sizeLen+n]); err == nil {
				cut := question{head: h}
				if cut.parse(&f) == nil && len(cut.append(nil)) != n+sizeLen {
					t.Errorf("verb %d cut to %d bytes was read as something else", q.verb, n)
				}
			}
		}
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	for _, a := range answers() {
		b := a.append(nil)
		if len(b) > a.size() {
			t.Errorf("%v: size says %d, frame has %d", a.err, a.size(), len(b))
		}
		h, f, err := parseFrame(b[sizeLen:])
		got := answer{head: h}
		if err == nil {
			err = got.parse(&f)
		}
		if err != nil || h.verb != a.verb|answerBit || !bytes.Equal(got.out, a.out) {
			t.Errorf("%+v: got %+v, %v", a, got, err)
		}
		for _, e := range [][2]error{{got.err, a.err}, {got.lost, a.lost}} {
			if (e[0] == nil) != (e[1] == nil) || e[0] != nil && (e[0].Error() != e[1].Error() || hsm.FaultOf(e[0]) != hsm.FaultOf(e[1])) {
				t.Errorf("error %v became %v", e[1], e[0])
			}
		}
	}
}

// FuzzFrame reads anything as a question, an answer and a hello. What can be read and
// is written again must be the same bytes, except that an error may have a shorter spelling.
func FuzzFrame(f *testing.F) {
	for _, q := range questions() {
		f.Add(q.append(nil)[sizeLen:])
	}
	for _, a := range answers() {
		f.Add(a.append(nil)[sizeLen:])
	}
	f.Add((&hello{[]byte(`{"a":1}`), []byte("1234")}).append(nil)[sizeLen:])
	f.Fuzz(func(t *testing.T, frame []byte) {
		if h, fields, err := parseFrame(frame); err == nil {
			q := question{head: h}
			if q.parse(&fields) == nil {
				if got := q.append(nil); !bytes.Equal(got[sizeLen:], frame) || len(got) != q.size() {
					t.Errorf("question %x was written as %x", frame, got[sizeLen:])
				}
			}
		}
		if h, fields, err := parseFrame(frame); err == nil && h.verb&answerBit != 0 {
			a := answer{head: h}
			if a.parse(&fields) == nil {
				again := a
				again.verb &^= answerBit
				_, fields, _ := parseFrame(again.append(nil)[sizeLen:])
				var b answer
				if err := b.parse(&fields); err != nil || !bytes.Equal(a.out, b.out) || hsm.FaultOf(a.err) != hsm.FaultOf(b.err) || (a.lost == nil) != (b.lost == nil) {
					t.Errorf("answer %x: %+v became %+v, %v", frame, a, b, err)
				}
			}
		}
		if h, err := parseHello(frame); err == nil {
			if got := h.append(nil); !bytes.Equal(got[sizeLen:], frame) && binary.LittleEndian.Uint32(frame[1:]) == 0 && binary.LittleEndian.Uint32(frame[5:]) == 0 {
				t.Errorf("hello %x was written as %x", frame, got[sizeLen:])
			}
		}
		_, _ = parseInfo(frame)
	})
}

// TestReceive: frames in any number of pieces, and lengths that are none.
func TestReceive(t *testing.T) {
	var stream []byte
	var want [][]byte
	for i, n := range []int{0, 10, readSize - 13, 5, readSize, 3, keepSize + readSize, 1} {
		q := question{head: head{verbDo, uint32(i), 1}, op: hsm.Op{In: bytes.Repeat([]byte{byte(i + 1)}, n)}}
		at := len(stream)
		stream = q.append(stream)
		want = append(want, stream[at+sizeLen:])
	}
	for _, piece := range []int{1, 7, 4096, len(stream)} {
		if piece == 1 && testing.Short() {
			continue
		}
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			for b := stream; len(b) > 0; b = b[min(piece, len(b)):] {
				if _, err := theirs.Write(b[:min(piece, len(b))]); err != nil {
					return
				}
			}
		}()
		l := newLink(ours)
		for i, w := range want {
			if got, err := l.receive(); err != nil || !bytes.Equal(got, w) {
				t.Fatalf("pieces of %d: frame %d: %d bytes, %v, want %d", piece, i, len(got), err, len(w))
			}
		}
		if _, err := l.receive(); err != io.EOF {
			t.Errorf("pieces of %d: the end is %v", piece, err)
		}
		if bytes.ContainsFunc(l.buf, func(r rune) bool { return r != 0 }) {
			t.Errorf("pieces of %d: the receiver keeps what it read", piece)
		}
		_ = ours.Close()
	}
	f := func(stream string, want error) {
		t.Helper()
		ours, theirs := net.Pipe()
		defer ours.Close()
		go func() {
			_, _ = io.WriteString(theirs, stream)
			_ = theirs.Close()
		}()
		if _, err := newLink(ours).receive(); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", stream, err, want)
		}
	}
	f("", io.EOF)
	f("\x09\x00", io.ErrUnexpectedEOF)
	f("\x09\x00\x00\x00", io.ErrUnexpectedEOF)
	f("\x09\x00\x00\x00\x01\x00\x00\x00", io.ErrUnexpectedEOF)
	f("\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00", errFrame)
	f("\x00\x00\x00\x00", errFrame)
	f("\x01\x00\x80\x00", errFrame)
	f("\xff\xff\xff\xff", errFrame)
}
