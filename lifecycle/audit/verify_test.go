package audit

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyway/lifecycle/key"
)

func TestEverythingVerifies(t *testing.T) {
	h, k := everything(), newKeys(t)
	done := map[Action]bool{}
	for _, e := range h.entries {
		done[e.Action] = true
	}
	for _, a := range Actions() {
		if !done[a] {
			t.Errorf("nobody did %s", a)
		}
	}
	b := export(t, h.source(t, k, 10))
	r := verify(t, b, k.demand(t))
	if !r.Verified || r.Entries != int64(len(h.entries)) || r.NoticesTotal != 0 || r.Facts != int64(len(h.state)) || len(r.LastCheckpoint.Good) != 3 {
		var s strings.Builder
		r.WriteText(&s)
		t.Fatalf("%s", &s)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	if r := verify(t, z.Bytes(), k.demand(t)); !r.Verified {
		t.Errorf("compressed: %+v", r.Failures)
	}
	if r := verify(t, z.Bytes()[:z.Len()-20], k.demand(t)); r.Verified || !r.Failed(CheckDamage) {
		t.Errorf("compressed and cut off: %+v", r.Failures)
	}
}

// Any walk of an installation is derived from its log alone.
func TestReplayGivesTheState(t *testing.T) {
	k := newKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		h := newHouse()
		for range rapid.IntRange(1, 40).Draw(t, "orders") {
			h.order(t)
		}
		var b bytes.Buffer
		every := rapid.IntRange(1, 50).Draw(t, "every")
		s := h.source(t, k, every)
		if err := Export(&b, s); err != nil {
			t.Fatal(err)
		}
		r, err := Verify(&b, Options{Trusted: k.trusted(t, 0)})
		if err != nil || !r.Verified {
			t.Fatalf("%v %+v", err, r.Failures)
		}
	})
}

// order does something that is allowed now.
func (h *house) order(t *rapid.T) {
	name := Name(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"))
	k, versions := h.keyNamed(name)
	if k.Kind == "" {
		h.createKey(name)
		return
	}
	if rapid.IntRange(0, 3).Draw(t, "rotate") == 0 {
		h.newVersion(k)
		return
	}
	v := rapid.SampledFrom(versions).Draw(t, "version")
	e := key.Event(rapid.IntRange(int(key.Suspend), int(key.Destroy)).Draw(t, "event"))
	if to, err := key.Next(h.state[v].State, e); err == nil {
		h.change(v, e, to)
	} else {
		h.by(h.anna, StateChanged, v, Details{From: h.state[v].State, Event: e, To: key.Active}).Outcome = Refused
	}
}

// A part of the log is verified from the state before it, and tied to what the auditor saw before.
func TestPartialExport(t *testing.T) {
	h, k := everything(), newKeys(t)
	all := len(h.entries)
	for _, from := range []int{1, 8, 17, all - 1} {
		tree, m := h.log(all)
		replay := NewReplay()
		for _, e := range h.entries[:from] {
			replay.Apply(e)
		}
		s := h.source(t, k, all)
		s.Before = h.tree(from)
		s.Entries = each(m.leaves[from:])
		s.Base = func(yield func(*Fact, error) bool) {
			for f := range replay.Facts() {
				if !yield(f, nil) {
					return
				}
			}
		}
		proof, err := ProveConsistency(tree.size, 1, m)
		if err != nil {
			t.Fatal(err)
		}
		s.Earlier = []EarlierProof{{1, proof}}
		b := export(t, s)
		for _, seen := range []int{1, from, all} {
			o := k.demand(t)
			o.Earlier = h.note(t, seen, k)
			if r := verify(t, b, o); !r.Verified {
				t.Errorf("from %d, seen %d: %+v", from, seen, r.Failures)
			}
		}
		// Another history of the same length is not continued.
		other := everything()
		other.entries[0].Time--
		for _, seen := range []int{1, from, all} {
			o := k.demand(t)
			o.Earlier = other.note(t, seen, k)
			if r := verify(t, b, o); !r.Failed(CheckEarlier) {
				t.Errorf("from %d: the log passed for the continuation of another one of %d entries", from, seen)
			}
		}
		if from > 8 {
			o := k.demand(t)
			o.Earlier = h.note(t, 8, k)
			if r := verify(t, b, o); !r.Failed(CheckEarlier) {
				t.Error("without a proof, a continuation was believed")
			}
		}
		// The state before is the exporter's word, unless its digest is known.
		r := verify(t, b, k.demand(t))
		if !strings.Contains(strings.Join(r.NotChecked, "\n"), "digest") {
			t.Errorf("%q", r.NotChecked)
		}
		o := k.demand(t)
		o.EarlierState = HashOf([]byte("another"))
		if r := verify(t, b, o); !r.Failed(CheckState) {
			t.Error("another state before was accepted")
		}
		before := &house{entries: h.entries[:from], state: map[Object]*Details{}}
		for f := range replay.Facts() {
			before.state[f.Object] = &f.Details
		}
		first := verify(t, export(t, before.source(t, k, all)), k.demand(t))
		if o.EarlierState, err = ParseHash(first.StateDigest); err != nil {
			t.Fatal(err)
		}
		if r := verify(t, b, o); !r.Verified {
			t.Errorf("the state before is as the report on the entries before has it: %+v", r.Failures)
		}
	}
}

func TestEarlierAndFresh(t *testing.T) {
	h, k := everything(), newKeys(t)
	b := export(t, h.source(t, k, 10))
	o := k.demand(t)
	o.Earlier = h.note(t, 20, k)
	if r := verify(t, b, o); !r.Verified || r.Earlier != 20 {
		t.Errorf("%+v", r.Failures)
	}
	o.Now, o.MaxAge = time.Unix(1790000000, 0).Add(time.Hour), 2*time.Hour
	if r := verify(t, b, o); !r.Verified {
		t.Errorf("%+v", r.Failures)
	}
	o.MaxAge = time.Minute
	if r := verify(t, b, o); !r.Failed(CheckFresh) {
		t.Error("an old cosignature passed for a new one")
	}
	o.Trusted = k.trusted(t, 0)
	o.MaxAge = 2 * time.Hour
	if r := verify(t, b, o); !r.Failed(CheckFresh) {
		t.Error("no cosignature passed for a new one")
	}
	if _, err := Verify(bytes.NewReader(b), Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("without keys: %v", err)
	}
	if _, err := Verify(bytes.NewReader(b), Options{Trusted: k.trusted(t, 0), Earlier: []byte("x")}); !errors.Is(err, ErrOptions) {
		t.Errorf("an earlier checkpoint that is none: %v", err)
	}
	broken := errors.New("the disk is gone")
	if _, err := Verify(io.MultiReader(bytes.NewReader(b[:500]), &brokenReader{broken}), Options{Trusted: k.trusted(t, 0)}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

type brokenReader struct{ err error }

func (r *brokenReader) Read([]byte) (int, error) { return 0, r.err }

// A clock that goes back is told and fails nothing.
func TestClockGoingBackIsANotice(t *testing.T) {
	h, k := everything(), newKeys(t)
	h.entries[9].Time -= 60_000
	// The checkpoint that the log speaks of is that of this log.
	for _, e := range h.entries {
		if e.Action == CheckpointSigned {
			e.Details.Root = RootHash(h.tree(int(e.Details.Size)).Root())
		}
	}
	r := verify(t, export(t, h.source(t, k, 10)), k.demand(t))
	if !r.Verified || r.NoticesTotal != 1 || r.Notices[0].Check != CheckTime || r.Notices[0].Entry != 9 {
		t.Errorf("%+v %+v", r.Failures, r.Notices)
	}
}

func TestExportRefusesWhatIsNotWhole(t *testing.T) {
	h, k := everything(), newKeys(t)
	f := func(name, says string, change func(*Source)) {
		t.Helper()
		s := h.source(t, k, 10)
		change(&s)
		if err := Export(io.Discard, s); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want something of %q", name, err, says)
		}
	}
	_, m := h.log(len(h.entries))
	f("an entry too few", "the entries end after", func(s *Source) { s.Entries = each(m.leaves[1:]) })
	f("an entry too many", "more entries than", func(s *Source) { s.Entries = each(append(m.leaves, m.leaves[0])) })
	f("no checkpoint", "and 0 checkpoints", func(s *Source) { s.Checkpoints = each([][]byte(nil)) })
	f("no last checkpoint", "sign one first", func(s *Source) { s.Checkpoints = each([][]byte{h.note(t, 10, k)}) })
	f("a checkpoint twice", "comes after 10", func(s *Source) { s.Checkpoints = each([][]byte{h.note(t, 10, k), h.note(t, 10, k)}) })
	f("a part without the state before", "needs the state before", func(s *Source) { s.Before = h.tree(10) })
	f("state out of order", "out of order", func(s *Source) {
		s.State = each([]*Fact{{Object{Kind: KindClient, Name: "b"}, Details{}}, {Object{Kind: KindClient, Name: "a"}, Details{}}})
	})
	f("an error of the store", "reading the state", func(s *Source) {
		s.State = func(yield func(*Fact, error) bool) { yield(nil, io.ErrUnexpectedEOF) }
	})
	if err := Export(failingWriter{}, h.source(t, k, 10)); err == nil {
		t.Error("a full disk: exported")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// An export of a longer log needs no more memory.
func TestExportStreams(t *testing.T) {
	leaf, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	k := newKeys(t)
	grown := func(n int64) uint64 {
		s := Source{Origin: origin, Size: n, Checkpoints: each([][]byte{mustSign(t, Checkpoint{origin, n, HashOf(nil).sum}, k)}), State: each([]*Fact(nil))}
		s.Entries = func(yield func([]byte, error) bool) {
			for range n {
				if !yield(leaf, nil) {
					return
				}
			}
		}
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		if err := Export(io.Discard, s); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&b)
		return b.TotalAlloc - a.TotalAlloc
	}
	grown(10)
	if small, large := grown(10), grown(50_000); large > small+100_000 {
		t.Errorf("10 entries take %d bytes, 50000 take %d", small, large)
	}
}

func mustSign(t tb, c Checkpoint, k keys) []byte {
	t.Helper()
	msg, err := c.Sign(k.node)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}
