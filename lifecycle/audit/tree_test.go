package audit

import (
	"bytes"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// memory is what a store keeps of a log.
type memory struct {
	leaves [][]byte
	hashes []tlog.Hash
	reads  int
}

func (m *memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	m.reads += len(indexes)
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = m.hashes[x]
	}
	return out, nil
}

// add appends a batch as a store would.
func (m *memory) add(t tb, b Batch) {
	t.Helper()
	if b.First != int64(len(m.leaves)) || b.Index != int64(len(m.hashes)) {
		t.Fatalf("the batch wants to be at entry %d and hash %d, and there are %d and %d", b.First, b.Index, len(m.leaves), len(m.hashes))
	}
	m.leaves = append(m.leaves, b.Leaves...)
	m.hashes = append(m.hashes, b.Hashes...)
}

// reference is the Merkle tree hash of RFC 6962, section 2.1, as it stands there.
func reference(leaves [][]byte) tlog.Hash {
	switch n := len(leaves); n {
	case 0:
		h, _ := tlog.TreeHash(0, nil)
		return h
	case 1:
		return tlog.RecordHash(leaves[0])
	default:
		k := 1
		for 2*k < n {
			k *= 2
		}
		return tlog.NodeHash(reference(leaves[:k]), reference(leaves[k:]))
	}
}

// Whatever the batches, root and stored hashes are those of RFC 6962, a tree that is read again goes on as the one before, and
// every proof checks and checks nothing else.
func TestTreeIsThatOfRFC6962(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m memory
		var tree Tree
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			entries := make([]*Entry, rapid.IntRange(0, 9).Draw(t, "entries"))
			for i := range entries {
				entries[i] = sample()
				entries[i].Time = Time(rapid.Int64Range(1, 1e12).Draw(t, "time"))
			}
			if rapid.Bool().Draw(t, "again") {
				if _, _, err := tree.Append(entries...); err != nil { // a transaction that is rolled back
					t.Fatal(err)
				}
			}
			next, b, err := tree.Append(entries...)
			if err != nil {
				t.Fatal(err)
			}
			m.leaves = append(m.leaves, b.Leaves...)
			m.hashes = append(m.hashes, b.Hashes...)
			if int64(len(m.hashes)) != tlog.StoredHashCount(next.Size()) || b.First != tree.Size() {
				t.Fatalf("%d hashes for %d entries", len(m.hashes), next.Size())
			}
			tree = next
			if rapid.Bool().Draw(t, "restart") {
				if tree, err = Resume(next.Size(), &m); err != nil {
					t.Fatal(err)
				}
			}
			if tree.Root() != reference(m.leaves) || tree.Size() != int64(len(m.leaves)) {
				t.Fatalf("the root of %d entries is not that of RFC 6962", len(m.leaves))
			}
		}
		n := int64(len(m.leaves))
		if n == 0 {
			return
		}
		c := tree.Checkpoint("example.com/log")
		i := rapid.Int64Range(0, n-1).Draw(t, "entry")
		p, err := ProveInclusion(n, i, &m)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckInclusion(p, c, i, m.leaves[i]); err != nil {
			t.Fatal(err)
		}
		if CheckInclusion(p, c, i, append(bytes.Clone(m.leaves[i]), ' ')) == nil {
			t.Fatal("a proof for another leaf was accepted")
		}
		k := rapid.Int64Range(1, n).Draw(t, "earlier")
		earlier := Checkpoint{c.Origin, k, reference(m.leaves[:k])}
		cp, err := ProveConsistency(n, k, &m)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckConsistency(cp, c, earlier); err != nil {
			t.Fatal(err)
		}
		earlier.Origin = "example.com/other"
		if CheckConsistency(cp, c, earlier) == nil {
			t.Fatal("a log was accepted as the continuation of one of another installation")
		}
		earlier.Origin = c.Origin
		earlier.Root[0] ^= 1
		if CheckConsistency(cp, c, earlier) == nil {
			t.Fatal("a log was accepted as the continuation of another one")
		}
	})
}

// Appending reads nothing, resuming reads one hash for each bit.
func TestTreeReadsLittle(t *testing.T) {
	var m memory
	var tree Tree
	for range 1000 {
		next, b, err := tree.Append(sample())
		if err != nil {
			t.Fatal(err)
		}
		m.add(t, b)
		tree = next
	}
	if _, err := Resume(1000, &m); err != nil || m.reads > 10 {
		t.Errorf("resuming read %d hashes, %v", m.reads, err)
	}
	if _, err := Resume(-1, &m); err == nil {
		t.Error("a log of -1 entries was resumed")
	}
}

func TestAppendIsAllOrNothing(t *testing.T) {
	bad := sample()
	bad.Outcome = "maybe"
	var tree Tree
	if _, b, err := tree.Append(sample(), bad); err == nil || b.Leaves != nil || tree.Size() != 0 {
		t.Errorf("half a batch was appended: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	var tree Tree
	e := sample()
	b.ReportAllocs()
	for b.Loop() {
		next, _, err := tree.Append(e)
		if err != nil {
			b.Fatal(err)
		}
		tree = next
	}
}

func BenchmarkAppendBatchOf64(b *testing.B) {
	var tree Tree
	entries := make([]*Entry, 64)
	for i := range entries {
		entries[i] = sample()
	}
	b.ReportAllocs()
	for b.Loop() {
		next, _, err := tree.Append(entries...)
		if err != nil {
			b.Fatal(err)
		}
		tree = next
	}
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode([]byte(sampleJSON)); err != nil {
			b.Fatal(err)
		}
	}
}
