package audit

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// says reports whether one of the findings is of a check and has some words.
func says(list []Finding, c Check, words string) bool {
	return slices.ContainsFunc(list, func(f Finding) bool { return f.Check == c && strings.Contains(f.What, words) })
}

// Each thing that can be wrong with the file itself is told as what it is, and nothing of it passes.
func TestBrokenBundlesAreToldApart(t *testing.T) {
	h, k := everything(), newKeys(t)
	whole := export(t, h.source(t, k, 10))
	parts := parse(t, whole)
	o := k.demand(t)
	f := func(c Check, words string, b []byte) {
		t.Helper()
		if r := verify(t, b, o); r.Verified || !says(r.Failures, c, words) {
			t.Errorf("want %s with %q, got %+v", c, words, r.Failures)
		}
	}
	head := func(old, new string) []byte {
		t.Helper()
		if !strings.Contains(parts[0].content, old) {
			t.Fatalf("%q is not in %s", old, parts[0].content)
		}
		return render(t, with(parts, 0, strings.Replace(parts[0].content, old, new, 1)))
	}
	put := func(i int, p part) []byte { t.Helper(); return render(t, slices.Insert(slices.Clone(parts), i, p)) }
	entry, state, end := where(parts, lineEntry)[3], where(parts, lineState)[0], len(parts)-1

	f(CheckForm, "the first line does not say", nil)
	f(CheckForm, "the first line does not say", []byte("hello\n"))
	f(CheckForm, "the first line does not say", []byte(strings.Repeat("x", maxLine+1)))
	f(CheckForm, "the first line does not say", head(`"format"`, `"extra":1,"format"`))
	f(CheckForm, "bad origin", head("example.com/keyway", "example com"))
	f(CheckForm, "does not have 0 subtrees", head(`"from":0`, `"from":3`))
	f(CheckForm, "has format 9", head(`"format":1`, `"format":9`))
	f(CheckForm, "a line of more than", put(entry, part{lineEntry, strings.Repeat("x", maxLine)}))
	f(CheckForm, "something follows the end", append(bytes.Clone(whole), whole...))
	f(CheckForm, "the line is none that a bundle has", put(entry, part{`{"note":`, "1"}))
	f(CheckForm, "belongs before others", put(entry, parts[1]))
	f(CheckDamage, "stops before its end", bytes.Join(bytes.SplitAfter(whole, []byte("\n"))[:end], nil))
	f(CheckDamage, "says that the log has 999", head(`"size":83`, `"size":999`))
	f(CheckDamage, "the file has no entries", render(t, []part{parts[0], parts[end]}))
	f(CheckEncoding, "not in canonical form", put(entry, part{lineEntry, "{}"}))

	cut := whole[:bytes.LastIndex(whole, []byte(lineEnd))]
	f(CheckForm, "the last line", append(bytes.Clone(cut), lineEnd+"1}\n"...))
	forgeEnd := func(change func(*trailer)) []byte {
		t.Helper()
		var tr trailer
		if err := json.Unmarshal([]byte(parts[end].content), &tr); err != nil {
			t.Fatal(err)
		}
		change(&tr)
		b, err := wrapJSON(bytes.Clone(cut), lineEnd, tr)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, change := range []func(*trailer){func(t *trailer) { t.Entries++ }, func(t *trailer) { t.Checkpoints-- }, func(t *trailer) { t.Facts++ }} {
		f(CheckDamage, "the last line speaks of", forgeEnd(change))
	}
	f(CheckDamage, "the lines have the hash", forgeEnd(func(t *trailer) { t.SHA256 = HashOf(nil) }))

	f(CheckForm, "fact: not in canonical form", put(entry-3, part{lineBase, `{"details":{},"object":{}}`}))
	f(CheckForm, "a whole log with a state before", put(entry-3, part{lineBase, parts[state].content}))
	twice := slices.Insert(slices.Clone(parts), entry-3, part{lineBase, parts[state].content}, part{lineBase, parts[state].content})
	f(CheckState, "the state before the first entry", render(t, twice))
	f(CheckForm, "fact: not in canonical form", put(state, part{lineState, `{"details":{},"object":{}}`}))
	f(CheckState, "client aaa is in the state and does not follow", put(state, part{lineState, `{"details":{},"object":{"kind":"client","name":"aaa"}}`}))

	o.Earlier = mustSign(t, Checkpoint{"example.com/other", 5, HashOf(nil).sum}, k)
	f(CheckEarlier, "your earlier checkpoint is of the log example.com/other", whole)
}

// What cannot be said for sure is a notice: nothing fails by it.
func TestNotices(t *testing.T) {
	h, k, other := everything(), newKeys(t), newKeys(t)
	o := k.demand(t)
	o.Earlier = mustSign(t, h.tree(10).Checkpoint(origin), other)
	if r := verify(t, export(t, h.source(t, k, 10)), o); !r.Verified || !says(r.Notices, CheckSignature, "signed by no key you trust") {
		t.Errorf("%+v %+v", r.Failures, r.Notices)
	}
	old := h.tree(5)
	for range 300 {
		h.add(BySystem, NodeStarted, Object{Kind: KindNode, Name: "n1"}, Details{})
	}
	h.add(BySystem, CheckpointSigned, Object{Kind: KindLog, Name: "log"}, Details{Size: 5, Root: RootHash(old.Root())})
	if r := verify(t, export(t, h.source(t, k, 1000)), k.demand(t)); !r.Verified || !says(r.Notices, CheckSigned, "too far back") {
		t.Errorf("%+v %+v", r.Failures, r.Notices)
	}
}

// A report holds so many findings and counts all.
func TestReportsAreBounded(t *testing.T) {
	h, k := everything(), newKeys(t)
	for range 500 {
		h.by(h.anna, MemberDrained, Object{Kind: KindMember, Name: "default/m9"}, Details{})
	}
	r := verify(t, export(t, h.source(t, k, 1000)), k.demand(t))
	if r.FailuresTotal != 500 || len(r.Failures) != maxFindings {
		t.Errorf("%d failures, %d listed", r.FailuresTotal, len(r.Failures))
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), "… and 300 more") || strings.Count(b.String(), meanings[CheckUnknown]) != 1 {
		t.Errorf("%v\n%s", err, &b)
	}
}

// FuzzVerify: no file makes the verifier fail over, and none that is not the one that was signed passes.
func FuzzVerify(f *testing.F) {
	k := newKeys(f)
	h := newHouse()
	h.createKey("pay")
	good := export(f, h.source(f, k, 3))
	f.Add(good)
	for i := range 20 {
		f.Add(good[:len(good)*i/20])
	}
	o := Options{Trusted: k.trusted(f, 0)}
	entries := where(parse(f, good), lineEntry)
	want := parse(f, good)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(bytes.NewReader(b), o)
		if err != nil || !r.Verified {
			return
		}
		got := parse(t, b)
		// What is not signed may differ: the head's date, the keys shown, white space in them. The entries may not.
		if gotEntries := where(got, lineEntry); len(gotEntries) > len(entries) {
			t.Fatalf("%d entries pass for %d", len(gotEntries), len(entries))
		} else {
			for n, i := range gotEntries {
				if got[i].content != want[entries[n]].content {
					t.Fatalf("entry %d: %s passes for %s", n, got[i].content, want[entries[n]].content)
				}
			}
		}
	})
}
