package audit

import (
	"fmt"
	"math/bits"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is what must be known of a log to append to it: its size and the roots of the complete subtrees it is made of, one
// for each bit of the size that is set, the largest first. It is a value: appending returns another tree and leaves this
// one as it was, so that a transaction that is run again starts from the same tree.
type Tree struct {
	size  int64
	peaks []tlog.Hash
}

// Resume reads the tree of a log with size entries: at most 64 hashes, in one call of r.
func Resume(size int64, r tlog.HashReader) (Tree, error) {
	t := Tree{size: size}
	if size < 0 || size > maxNumber {
		return Tree{}, fmt.Errorf("audit: a log of %d entries cannot be", size)
	}
	// tlog's own arithmetic says which hashes they are.
	_, err := tlog.TreeHash(size, tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		h, err := r.ReadHashes(indexes)
		t.peaks = append(t.peaks, h...)
		return h, err
	}))
	if err != nil {
		return Tree{}, fmt.Errorf("audit: reading the hashes of a log of %d entries: %w", size, err)
	}
	return t, nil
}

// resumePeaks returns the tree of size entries with these subtrees.
func resumePeaks(size int64, peaks []tlog.Hash) (Tree, error) {
	if size < 0 || size > maxNumber || len(peaks) != bits.OnesCount64(uint64(size)) {
		return Tree{}, fmt.Errorf("audit: a log of %d entries does not have %d subtrees", size, len(peaks))
	}
	return Tree{size, peaks}, nil
}

// Size returns the number of entries, which is the sequence number of the next one.
func (t Tree) Size() int64 { return t.size }

// Root returns the root hash as in RFC 6962.
func (t Tree) Root() tlog.Hash {
	if len(t.peaks) == 0 {
		h, _ := tlog.TreeHash(0, nil) // the hash of nothing; reads nothing
		return h
	}
	h := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		h = tlog.NodeHash(t.peaks[i], h)
	}
	return h
}

// Batch is what appending some entries means for a store. Leaf i belongs to the sequence number First+i; hash j to the
// stored hash index Index+j of package tlog, by which it is read again.
type Batch struct {
	First  int64
	Leaves [][]byte
	Index  int64
	Hashes []tlog.Hash
}

// Append gives the entries their sequence numbers, encodes them and returns the tree with them. It costs time and hashes in proportion
// to the entries, and nothing for those that are there: about two hashes for each.
func (t Tree) Append(entries ...*Entry) (Tree, Batch, error) {
	b := Batch{First: t.size, Index: tlog.StoredHashCount(t.size)}
	next := t.clone()
	for _, e := range entries {
		e.Seq = Number(next.size)
		leaf, err := e.Encode()
		if err != nil {
			return Tree{}, Batch{}, err
		}
		b.Leaves = append(b.Leaves, leaf)
		b.Hashes = next.push(tlog.RecordHash(leaf), b.Hashes)
	}
	return next, b, nil
}

func (t Tree) clone() Tree {
	return Tree{t.size, append(make([]tlog.Hash, 0, len(t.peaks)+1), t.peaks...)}
}

// push adds a leaf in place and appends the hashes to store to dst: that of the leaf and those of the subtrees it completes.
func (t *Tree) push(leaf tlog.Hash, dst []tlog.Hash) []tlog.Hash {
	h := leaf
	dst = append(dst, h)
	for n := t.size; n&1 == 1; n >>= 1 {
		h = tlog.NodeHash(t.peaks[len(t.peaks)-1], h)
		t.peaks = t.peaks[:len(t.peaks)-1]
		dst = append(dst, h)
	}
	t.peaks = append(t.peaks, h)
	t.size++
	return dst
}

// ProveInclusion returns the hashes that show that entry seq is in the log of size entries, for [CheckInclusion].
func ProveInclusion(size, seq int64, r tlog.HashReader) (tlog.RecordProof, error) {
	p, err := tlog.ProveRecord(size, seq, r)
	if err != nil {
		return nil, fmt.Errorf("audit: proving entry %d in %d: %w", seq, size, err)
	}
	return p, nil
}

// CheckInclusion returns nil when the proof shows that leaf is entry seq of the log of c.
func CheckInclusion(p tlog.RecordProof, c Checkpoint, seq int64, leaf []byte) error {
	if err := tlog.CheckRecord(p, c.Size, c.Root, seq, tlog.RecordHash(leaf)); err != nil {
		return fmt.Errorf("audit: entry %d is not shown to be in the log of %d entries: %w", seq, c.Size, err)
	}
	return nil
}

// ProveConsistency returns the hashes that show that the first earlier entries of the log of size entries are those of
// the log when it had earlier entries, for [CheckConsistency].
func ProveConsistency(size, earlier int64, r tlog.HashReader) (tlog.TreeProof, error) {
	p, err := tlog.ProveTree(size, earlier, r)
	if err != nil {
		return nil, fmt.Errorf("audit: proving the log of %d entries in %d: %w", earlier, size, err)
	}
	return p, nil
}

// CheckConsistency returns nil when the proof shows that the log of c begins with the log of earlier.
func CheckConsistency(p tlog.TreeProof, c, earlier Checkpoint) error {
	if c.Origin != earlier.Origin {
		return fmt.Errorf("audit: the checkpoints are of two logs, %s and %s", earlier.Origin, c.Origin)
	}
	if earlier.Size == 0 {
		return nil // every log begins with nothing
	}
	if err := tlog.CheckTree(p, c.Size, c.Root, earlier.Size, earlier.Root); err != nil {
		return fmt.Errorf("audit: the log of %d entries is not shown to begin with that of %d: %w", c.Size, earlier.Size, err)
	}
	return nil
}
