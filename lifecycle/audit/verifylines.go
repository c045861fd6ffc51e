package audit

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

var errLongLine = fmt.Errorf("a line of more than %d bytes", maxLine)

// lines reads a bundle, compressed by gzip or not, line by line.
type lines struct {
	r    *bufio.Reader
	n    int64     // the line that was read last, from 1 on
	sum  hash.Hash // of the lines before the one that was read last
	last []byte
}

func newLines(r io.Reader) (*lines, error) {
	b := bufio.NewReaderSize(r, maxLine)
	if magic, _ := b.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("audit: reading the bundle: %w", err)
		}
		b = bufio.NewReaderSize(z, maxLine)
	}
	return &lines{r: b, sum: sha256.New()}, nil
}

// next returns the next line without its end, valid until the next call; io.EOF at the end. A last line without an end
// is a line.
func (l *lines) next() ([]byte, error) {
	l.sum.Write(l.last)
	line, err := l.r.ReadSlice('\n')
	l.last = line
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		l.n++
		return nil, errLongLine
	case errors.Is(err, io.EOF) && len(line) > 0:
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case damaged(err): // the end is missing then, and that is what is reported
		return nil, io.EOF
	case err != nil:
		return nil, fmt.Errorf("audit: reading the bundle: %w", err)
	}
	l.n++
	return bytes.TrimSuffix(line, []byte{'\n'}), nil
}

// damaged reports whether a compressed file was cut off or changed, as against one that cannot be read.
func damaged(err error) bool {
	var corrupt flate.CorruptInputError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.As(err, &corrupt)
}

// content returns what a line of a kind holds.
func content(line []byte, kind string) ([]byte, bool) {
	b, ok := bytes.CutPrefix(line, []byte(kind))
	if !ok {
		return nil, false
	}
	return bytes.CutSuffix(b, []byte{'}'})
}

func decodeLine(line []byte, kind string, to any) error {
	b, ok := content(line, kind)
	if !ok {
		return fmt.Errorf("it does not begin with %s", kind)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its content")
	}
	return nil
}

// enter goes on to a section and reports whether it may come now.
func (v *verification) enter(p phase) bool {
	if p < v.phase {
		v.fail(CheckForm, "a line that belongs before others comes after them")
		return false
	}
	v.phase = p
	return true
}

// line takes one line after the first.
func (v *verification) line(line []byte) {
	if b, ok := content(line, lineEntry); ok {
		if v.enter(inEntries) {
			v.entry(b)
		}
		return
	}
	if b, ok := content(line, lineState); ok {
		if v.enter(inState) {
			v.startState()
			v.state.line(v, b)
		}
		return
	}
	if b, ok := content(line, lineBase); ok {
		if v.enter(inBase) {
			v.baseFact(b)
		}
		return
	}
	var text string
	var proof EarlierProof
	var err error
	switch {
	case bytes.HasPrefix(line, []byte(lineCheckpoint)):
		if err = decodeLine(line, lineCheckpoint, &text); err == nil && v.enter(inEntries) {
			v.checkpoint([]byte(text))
		}
	case bytes.HasPrefix(line, []byte(lineKey)):
		if err = decodeLine(line, lineKey, &text); err == nil {
			v.enter(inKeys)
		}
	case bytes.HasPrefix(line, []byte(lineEarlier)):
		if err = decodeLine(line, lineEarlier, &proof); err == nil && v.enter(inEarlier) {
			v.proofs = append(v.proofs, proof)
		}
	case bytes.HasPrefix(line, []byte(lineEnd)):
		v.end(line)
	default:
		err = errors.New("the line is none that a bundle has")
	}
	if err != nil {
		v.fail(CheckForm, "%v", err)
	}
}

func (v *verification) end(line []byte) {
	v.ended = true
	var t trailer
	if err := decodeLine(line, lineEnd, &t); err != nil {
		v.fail(CheckForm, "the last line: %v", err)
		return
	}
	facts := int64(len(v.base))
	if v.state != nil {
		facts += v.state.facts
	}
	if n := v.tree.size - v.head.From; t.Entries != n || t.Checkpoints != v.report.Checkpoints || t.Facts != facts {
		v.fail(CheckDamage, "the last line speaks of %d entries, %d checkpoints and %d facts, and there were %d, %d and %d", t.Entries, t.Checkpoints, t.Facts, n, v.report.Checkpoints, facts)
	}
	var sum Hash
	v.in.sum.Sum(sum.sum[:0])
	if sum != t.SHA256 {
		v.fail(CheckDamage, "the lines have the hash %s, and the last one says %s", sum, t.SHA256)
	}
}

// entry takes one entry.
func (v *verification) entry(leaf []byte) {
	v.startReplay()
	seq := v.tree.size
	v.tree.push(tlog.RecordHash(leaf), nil)
	v.remember()
	v.compareEarlier()
	v.report.Entries++
	e, err := Decode(leaf)
	if err != nil {
		v.report.fail(CheckEncoding, seq, v.in.n, "%v", err)
		v.replay.next = Number(seq) + 1
		return
	}
	if v.Each != nil {
		v.Each(e)
	}
	for _, p := range v.replay.Apply(e) {
		v.report.fail(p.Check, p.Entry, v.in.n, "%s", p.What)
	}
	v.report.Actions[e.Action]++
	if v.report.First == 0 {
		v.report.First = e.Time
	}
	v.report.Last = max(v.report.Last, e.Time)
	if back := v.lastTime - e.Time; int64(back) > v.Tolerance.Milliseconds() {
		v.report.notice(CheckTime, int64(e.Seq), v.in.n, "the time %s is %d ms before that of the entry before", e.Time, back)
	}
	v.lastTime = e.Time
	if e.Action == LogBegun && e.Details.Origin != v.head.Origin {
		v.report.fail(CheckOrigin, seq, v.in.n, "the log begins as %s, and the file is about %s", e.Details.Origin, v.head.Origin)
	}
	if e.Action == CheckpointSigned && e.Outcome == Done {
		v.signed(e)
	}
}

// signed checks what an entry says about a checkpoint that was signed before it.
func (v *verification) signed(e *Entry) {
	size := int64(e.Details.Size)
	t := v.recent[size%int64(len(v.recent))]
	switch {
	case size > int64(e.Seq):
		v.report.fail(CheckSigned, int64(e.Seq), v.in.n, "a checkpoint of %d entries is said to be signed when there were %d", size, e.Seq)
	case t.size != size || size == 0:
		v.report.notice(CheckSigned, int64(e.Seq), v.in.n, "the checkpoint of %d entries that was signed is too far back to be compared", size)
	case RootHash(t.Root()) != e.Details.Root:
		v.report.fail(CheckSigned, int64(e.Seq), v.in.n, "the checkpoint of %d entries is said to have the root %s, and these entries have %s", size, e.Details.Root, RootHash(t.Root()))
	}
}

func (v *verification) checkpoint(msg []byte) {
	v.report.Checkpoints++
	s, err := OpenCheckpoint(msg, v.trusted)
	if err != nil {
		v.fail(CheckForm, "%v", err)
		return
	}
	if s.Origin != v.head.Origin {
		v.fail(CheckOrigin, "the checkpoint of %d entries is of the log %s", s.Size, s.Origin)
	}
	for _, b := range s.Bad {
		v.fail(CheckSignature, "the signature of the checkpoint of %d entries by %s is not valid", s.Size, b)
	}
	if len(s.Good) == 0 {
		v.fail(CheckSignature, "the checkpoint of %d entries is signed by no key you trust", s.Size)
	}
	switch {
	case s.Size != v.tree.size:
		v.fail(CheckRoot, "a checkpoint of %d entries stands after %d", s.Size, v.tree.size)
	case s.Root != v.tree.Root():
		v.fail(CheckRoot, "the first %d entries do not give the root of their checkpoint", s.Size)
	}
	v.last = s
}

func (v *verification) baseFact(b []byte) {
	f, err := DecodeFact(b)
	if err != nil {
		v.fail(CheckForm, "%v", err)
		return
	}
	v.baseHash.Write(b)
	v.baseHash.Write([]byte{'\n'})
	v.base = append(v.base, f)
}

// startReplay hands the state before the first entry to the replay.
func (v *verification) startReplay() {
	if v.entrySeen {
		return
	}
	v.entrySeen = true
	if err := v.replay.Begin(Number(v.head.From), slices.Values(v.base)); err != nil {
		v.fail(CheckState, "the state before the first entry: %v", err)
	}
	if v.head.From == 0 && len(v.base) > 0 {
		v.fail(CheckForm, "a whole log with a state before its first entry")
	}
}

// comparison compares the state that follows from the entries with the one the file shows, both in one order.
type comparison struct {
	next  func() (*Fact, bool)
	stop  func()
	want  *Fact // what follows from the entries and is not compared yet; nil at the end
	last  *Object
	facts int64
	hash  hash.Hash
}

func (v *verification) startState() {
	if v.state != nil {
		return
	}
	c := &comparison{hash: sha256.New()}
	c.next, c.stop = iter.Pull(v.replay.Facts())
	c.want, _ = c.next()
	v.state = c
}

func (c *comparison) line(v *verification, b []byte) {
	c.facts++
	c.hash.Write(b)
	c.hash.Write([]byte{'\n'})
	f, err := DecodeFact(b)
	if err != nil {
		v.fail(CheckForm, "%v", err)
		return
	}
	if c.last != nil && CompareObjects(*c.last, f.Object) >= 0 {
		v.fail(CheckForm, "the state is out of order: %s comes after %s", f.Object, *c.last)
		return
	}
	c.last = &f.Object
	for c.want != nil && CompareObjects(c.want.Object, f.Object) < 0 {
		v.fail(CheckState, "%s follows from the log and is not in the state", c.want.Object)
		c.want, _ = c.next()
	}
	if c.want == nil || CompareObjects(c.want.Object, f.Object) != 0 {
		v.fail(CheckState, "%s is in the state and does not follow from the log", f.Object)
		return
	}
	want, err := c.want.Encode()
	if err != nil {
		want = []byte(err.Error())
	}
	if !bytes.Equal(want, b) {
		v.fail(CheckState, "%s is shown as %s, and from the log follows %s", f.Object, b, want)
	}
	c.want, _ = c.next()
}

// finish reports what the file does not show.
func (c *comparison) finish(v *verification) {
	for ; c.want != nil; c.want, _ = c.next() {
		v.fail(CheckState, "%s follows from the log and is not in the state", c.want.Object)
	}
	c.stop()
}

func (c *comparison) digest() string { return fmt.Sprintf("%x", c.hash.Sum(nil)) }
