//go:build unix

package audit

import (
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"keyway/lifecycle/key"
)

// life is the log of an installation with n entries, made while it is read: five entries in the life of each key.
func life(n int64) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		id := func(kind byte, n int64) (id key.ID) {
			binary.BigEndian.PutUint64(id[:], uint64(n))
			id[15] = kind
			return id
		}
		for i := range n {
			k := Object{Kind: KindKey, Name: Name(fmt.Sprintf("tenant-%07d", i/5)), ID: id(1, i/5)}
			v := Object{Kind: KindVersion, Name: k.Name, Number: 1, ID: id(2, i/5)}
			e := &Entry{Seq: Number(i), Time: Time(1790000000000 + i), Node: "n1", Actor: Actor{"anna@example.com", ByCertificate}, Outcome: Done}
			switch i % 5 {
			case 0:
				e.Action, e.Object, e.Details = KeyCreated, k, Details{Algorithm: key.ECP256, Pool: "default", Usages: key.Sign | key.Verify}
			case 1:
				e.Action, e.Object = VersionInserted, v
			case 2:
				e.Action, e.Object, e.Details = VersionGenerated, v, Details{Public: HashOf(v.ID[:])}
			case 3:
				e.Action, e.Object, e.Details = StateChanged, v, Details{From: key.PreActive, Event: key.Activate, To: key.Active, Reason: "first use"}
			case 4:
				e.Action, e.Object, e.Details = PrimarySet, k, Details{Primary: 1}
			}
			if i == 0 {
				e.Action, e.Object, e.Details = LogBegun, Object{Kind: KindLog, Name: "log"}, Details{Origin: origin}
			}
			if i > 0 && i < 5 { // those of the key that was not created
				e.Action, e.Object, e.Details = NodeStarted, Object{Kind: KindNode, Name: "n1"}, Details{}
			}
			if !yield(e) {
				return
			}
		}
	}
}

// writeLife writes the bundle of life(n), with a checkpoint every thousand entries, and returns its name.
func writeLife(b *testing.B, n int64, k keys) string {
	b.Helper()
	var notes [][]byte
	var tree Tree
	replay := NewReplay()
	for e := range life(n) {
		next, _, err := tree.Append(e)
		if err != nil {
			b.Fatal(err)
		}
		tree = next
		replay.Apply(e)
		if tree.size%1000 == 0 && tree.size != n || tree.size == n {
			notes = append(notes, mustSign(b, tree.Checkpoint(origin), k))
		}
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "bundle"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	err = Export(f, Source{
		Origin: origin, Size: n, Keys: k.vkeys, Checkpoints: each(notes),
		Entries: func(yield func([]byte, error) bool) {
			for e := range life(n) {
				if !yield(e.Encode()) {
					return
				}
			}
		},
		State: func(yield func(*Fact, error) bool) {
			for f := range replay.Facts() {
				if !yield(f, nil) {
					return
				}
			}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	return f.Name()
}

// BenchmarkVerify verifies one bundle of b.N entries, so that -benchtime=1000000x is a log of a million.
func BenchmarkVerify(b *testing.B) {
	k := newKeys(b)
	name := writeLife(b, int64(b.N), k)
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	r, err := Verify(f, Options{Trusted: k.trusted(b, 0)})
	if err != nil || !r.Verified {
		b.Fatalf("%v %+v", err, r)
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu returns the processor time of this process in nanoseconds, which a busy machine stretches less than the clock.
func cpu(b *testing.B) int64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkExport writes one bundle of b.N entries that are there already.
func BenchmarkExport(b *testing.B) {
	k := newKeys(b)
	leaf, err := sample().Encode()
	if err != nil {
		b.Fatal(err)
	}
	n := int64(b.N)
	s := Source{Origin: origin, Size: n, Checkpoints: each([][]byte{mustSign(b, Checkpoint{Origin: origin, Size: n}, k)}), State: each([]*Fact(nil))}
	s.Entries = func(yield func([]byte, error) bool) {
		for range n {
			if !yield(leaf, nil) {
				return
			}
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	if err := Export(io.Discard, s); err != nil {
		b.Fatal(err)
	}
}
