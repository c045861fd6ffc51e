package audit

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"
)

// Source is what a bundle is made of. Everything in it must be of one moment: in a database, of one transaction.
type Source struct {
	Origin Origin
	// Before is the tree of the entries before the first one of the bundle; the zero Tree for a whole log.
	Before Tree
	// Size is the size of the log and of its last checkpoint.
	Size int64
	Made time.Time
	// Keys are the verifier keys of the signers, for the reader's information.
	Keys []string
	// Earlier are proofs for readers who hold a checkpoint from before the first entry of the bundle.
	Earlier []EarlierProof
	// Base is the state before the first entry, in the order of [CompareObjects]; nil for a whole log.
	Base iter.Seq2[*Fact, error]
	// Entries are the canonical entries from the first one on.
	Entries iter.Seq2[[]byte, error]
	// Checkpoints are signed checkpoints of rising size, all of them larger than Before, the last one of Size.
	Checkpoints iter.Seq2[[]byte, error]
	// State is the state after the last entry, in the order of [CompareObjects].
	State iter.Seq2[*Fact, error]
}

// Export writes a bundle and holds no more of it than a line. It checks that the parts are complete and in order, and
// not that they are true: a log that was tampered with can be exported, so that the auditor sees it. After an error what was
// written is no bundle.
func Export(w io.Writer, s Source) error {
	x := &exporter{w: bufio.NewWriterSize(w, 1<<16), h: sha256.New()}
	if err := x.write(s); err != nil {
		return fmt.Errorf("audit: export: %w", err)
	}
	return nil
}

type exporter struct {
	w    *bufio.Writer
	h    hash.Hash
	line []byte
	end  trailer
}

func (x *exporter) put(kind string, content []byte) error {
	x.line = wrap(x.line[:0], kind, content)
	return x.flush()
}

func (x *exporter) putJSON(kind string, v any) (err error) {
	if x.line, err = wrapJSON(x.line[:0], kind, v); err != nil {
		return err
	}
	return x.flush()
}

func (x *exporter) flush() error {
	if len(x.line) > maxLine {
		return fmt.Errorf("a line of %d bytes: at most %d", len(x.line), maxLine)
	}
	x.h.Write(x.line)
	_, err := x.w.Write(x.line)
	return err
}

func (x *exporter) write(s Source) error {
	if s.Size < s.Before.size || s.Size == 0 {
		return fmt.Errorf("a log of %d entries from entry %d on cannot be", s.Size, s.Before.size)
	}
	if (s.Before.size > 0) != (s.Base != nil) {
		return errors.New("a bundle needs the state before its first entry exactly when that is not entry 0")
	}
	if err := x.putJSON(lineBundle, header{format, s.Origin, s.Before.size, s.Size, s.Made.UTC().Truncate(time.Millisecond), s.Before.peaks}); err != nil {
		return err
	}
	for _, k := range s.Keys {
		if err := x.putJSON(lineKey, k); err != nil {
			return err
		}
	}
	for _, p := range s.Earlier {
		if err := x.putJSON(lineEarlier, p); err != nil {
			return err
		}
	}
	if s.Base != nil {
		if err := x.facts(lineBase, s.Base); err != nil {
			return err
		}
	}
	if err := x.entries(s); err != nil {
		return err
	}
	if err := x.facts(lineState, s.State); err != nil {
		return err
	}
	x.h.Sum(x.end.SHA256.sum[:0])
	if err := x.putJSON(lineEnd, x.end); err != nil {
		return err
	}
	return x.w.Flush()
}

func (x *exporter) facts(kind string, facts iter.Seq2[*Fact, error]) error {
	var last *Fact
	for f, err := range facts {
		if err != nil {
			return fmt.Errorf("reading the state: %w", err)
		}
		if last != nil && CompareObjects(last.Object, f.Object) >= 0 {
			return fmt.Errorf("the state is out of order: %s comes after %s", f.Object, last.Object)
		}
		last = f
		b, err := f.Encode()
		if err != nil {
			return err
		}
		if err := x.put(kind, b); err != nil {
			return err
		}
		x.end.Facts++
	}
	return nil
}

// entries writes the entries, and each checkpoint when its size is reached.
func (x *exporter) entries(s Source) error {
	next, stop := iter.Pull2(s.Checkpoints)
	defer stop()
	size := s.Before.size
	msg, at, err := pullCheckpoint(next, size)
	if err != nil {
		return err
	}
	for leaf, err := range s.Entries {
		if err != nil {
			return fmt.Errorf("reading entry %d: %w", size, err)
		}
		if size == s.Size {
			return fmt.Errorf("there are more entries than %d", s.Size)
		}
		if err := x.put(lineEntry, leaf); err != nil {
			return err
		}
		size++
		x.end.Entries++
		if size != at {
			continue
		}
		if err := x.putJSON(lineCheckpoint, string(msg)); err != nil {
			return err
		}
		x.end.Checkpoints++
		if msg, at, err = pullCheckpoint(next, size); err != nil {
			return err
		}
		if msg == nil && size != s.Size {
			return fmt.Errorf("the last checkpoint is of %d entries, and the log has %d: sign one first", size, s.Size)
		}
	}
	if size != s.Size || x.end.Checkpoints == 0 || msg != nil {
		return fmt.Errorf("the entries end after %d, the log has %d and %d checkpoints among them", size, s.Size, x.end.Checkpoints)
	}
	return nil
}

// pullCheckpoint returns the next checkpoint and its size, nil at the end.
func pullCheckpoint(next func() ([]byte, error, bool), after int64) ([]byte, int64, error) {
	msg, err, ok := next()
	if !ok {
		return nil, -1, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading checkpoints: %w", err)
	}
	n, err := OpenCheckpoint(msg, nil)
	if err != nil {
		return nil, 0, err
	}
	if n.Size <= after {
		return nil, 0, fmt.Errorf("a checkpoint of %d entries comes after %d", n.Size, after)
	}
	return msg, n.Size, nil
}
