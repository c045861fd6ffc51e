package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"keyway/lifecycle/key"
)

// part is a line of a bundle: its kind and what it holds.
type part struct{ kind, content string }

func parse(t tb, b []byte) []part {
	t.Helper()
	var out []part
	for line := range strings.Lines(string(b)) {
		i := strings.IndexByte(line, ':') + 1
		out = append(out, part{line[:i], strings.TrimSuffix(line[i:], "}\n")})
	}
	return out
}

// render writes the lines as a forger does who knows the format: with an end that fits.
func render(t tb, parts []part) []byte {
	t.Helper()
	var b []byte
	var end trailer
	for _, p := range parts {
		switch p.kind {
		case lineEnd:
			end.SHA256 = Hash{sha256.Sum256(b)}
			j, err := json.Marshal(end)
			if err != nil {
				t.Fatal(err)
			}
			p.content = string(j)
		case lineEntry:
			end.Entries++
		case lineCheckpoint:
			end.Checkpoints++
		case lineState, lineBase:
			end.Facts++
		}
		b = wrap(b, p.kind, []byte(p.content))
	}
	return b
}

// where returns the lines of a kind.
func where(parts []part, kind string) (out []int) {
	for i, p := range parts {
		if p.kind == kind {
			out = append(out, i)
		}
	}
	return out
}

// forge is one way in which a bundle was changed: the report must say that one of the checks failed.
func forge(t *testing.T, name string, parts []part, o Options, want ...Check) *Report {
	t.Helper()
	r := verify(t, render(t, parts), o)
	for _, c := range want {
		if r.Failed(c) && !r.Verified {
			return r
		}
	}
	t.Errorf("%s: verified=%v, want a failure of %v, got %+v", name, r.Verified, want, r.Failures)
	return r
}

func with(parts []part, i int, content string) []part {
	out := slices.Clone(parts)
	out[i].content = content
	return out
}

// Whoever has the file and no key: every change of an entry, for each kind of entry, changes a root that is signed.
func TestChangedEntriesAreCaught(t *testing.T) {
	h, k := everything(), newKeys(t)
	parts := parse(t, export(t, h.source(t, k, 1000)))
	o := k.demand(t)
	if r := verify(t, render(t, parts), o); !r.Verified {
		t.Fatalf("%+v", r.Failures)
	}
	at := where(parts, lineEntry)
	changes := 0
	for n, i := range at {
		action := h.entries[n].Action
		eachChange(t, h.entries[n], func(what string, leaf []byte) {
			changes++
			forge(t, fmt.Sprintf("%s: %s", action, what), with(parts, i, string(leaf)), o, CheckRoot)
		})
		forge(t, fmt.Sprintf("%s dropped", action), slices.Delete(slices.Clone(parts), i, i+1), o, CheckRoot, CheckDamage)
		forge(t, fmt.Sprintf("%s doubled", action), slices.Insert(slices.Clone(parts), i, parts[i]), o, CheckRoot, CheckDamage)
		if n+1 < len(at) {
			swapped := slices.Clone(parts)
			swapped[i], swapped[at[n+1]] = swapped[at[n+1]], swapped[i]
			forge(t, fmt.Sprintf("%s reordered", action), swapped, o, CheckRoot)
		}
		forge(t, fmt.Sprintf("%s in another form", action), with(parts, i, strings.Replace(parts[i].content, `"v":1`, `"v": 1`, 1)), o, CheckEncoding)
	}
	if changes < 5*len(at) {
		t.Errorf("only %d changes were tried", changes)
	}
}

// eachChange calls f with the entry changed in one field after the other.
func eachChange(t *testing.T, e *Entry, f func(what string, leaf []byte)) {
	t.Helper()
	var walk func(path string, v reflect.Value, e *Entry)
	walk = func(path string, v reflect.Value, e *Entry) {
		if _, isHash := v.Interface().(Hash); v.Kind() == reflect.Struct && !isHash && v.Type() != reflect.TypeFor[KCV]() {
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i), e)
			}
			return
		}
		if v.IsZero() && path != ".Seq" {
			return
		}
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch x := v.Addr().Interface().(type) {
		case *Hash:
			*x = HashOf(x.sum[:])
		case *KCV:
			x.b[0]++
		case *key.ID:
			x[0]++
		case *[]Hash:
			*x = append(slices.Clone(*x), HashOf(nil))
		case *Text:
			*x += "!"
		case *key.Usage:
			*x ^= key.Sign
		default:
			switch v.Kind() {
			case reflect.String:
				v.SetString(v.String() + "x")
			case reflect.Int64:
				v.SetInt(v.Int() + 1)
			case reflect.Uint8:
				v.SetUint(v.Uint()%5 + 1)
			case reflect.Bool:
				v.SetBool(false)
			case reflect.Slice:
				v.Set(v.Slice(0, v.Len()-1))
			default:
				t.Fatalf("no way to change %s", path)
			}
		}
		of, err := setsOf(e.Action, e.Object.Kind)
		if err != nil { // an action or kind that does not exist, written all the same
			of = ruleSets[StateChanged]
		}
		f(path, e.write(nil, of))
		v.Set(old)
	}
	c := *e
	walk("", reflect.ValueOf(&c).Elem(), &c)
}

// Whoever changed the file without minding its end, or cut it off.
func TestDamageIsCaught(t *testing.T) {
	h, k := everything(), newKeys(t)
	b := export(t, h.source(t, k, 10))
	o := k.demand(t)
	for _, n := range []int{0, 1, 100, len(b) / 2, len(b) - 200, len(b) - 2} {
		if r := verify(t, b[:n], o); r.Verified {
			t.Errorf("cut off after %d of %d bytes: verified", n, len(b))
		}
	}
	for i := 0; i < len(b)-1; i += 97 {
		c := bytes.Clone(b)
		c[i] ^= 1
		if r := verify(t, c, o); r.Verified {
			t.Errorf("byte %d changed from %q to %q: verified", i, b[i-min(i, 30):i+1], c[i])
		}
	}
	if r := verify(t, append(bytes.Clone(b), "{}\n"...), o); r.Verified {
		t.Error("something was added after the end: verified")
	}
	if r := verify(t, append(bytes.Repeat([]byte("x"), maxLine+1), b...), o); r.Verified {
		t.Error("a line without end: verified")
	}
}

// truncated returns the house as it was n entries ago, with the state of then: what a forger shows who wants the rest forgotten.
func truncated(h *house, n int) *house {
	r := NewReplay()
	short := &house{entries: h.entries[:n], state: map[Object]*Details{}, clock: h.clock, anna: h.anna}
	for _, e := range short.entries {
		r.Apply(e)
	}
	for f := range r.Facts() {
		short.state[f.Object] = &f.Details
	}
	return short
}

// Whoever has the database and the node's key can write another history and sign it. The auditor's earlier checkpoint, the
// second signature, or a recent witness gives it away.
func TestTruncatedAndSignedAgainIsCaught(t *testing.T) {
	h, k := everything(), newKeys(t)
	cut := len(h.entries) - 10
	seen := h.note(t, len(h.entries), k)
	node := keys{node: k.node, custody: k.node, witness: k.node, vkeys: k.vkeys} // all signatures by one key
	parts := parse(t, export(t, truncated(h, cut).source(t, node, 10)))
	o := k.demand(t)
	forge(t, "without custody's signature", parts, o, CheckRequired)

	o.Required, o.Earlier = nil, seen
	forge(t, "shorter than what the auditor saw", parts, o, CheckEarlier)

	o.Earlier, o.Now, o.MaxAge = nil, time.Unix(1790000000, 0), time.Hour
	forge(t, "without a witness", parts, o, CheckFresh)

	// As long as what the auditor saw, and longer, but another history.
	for _, n := range []int{0, 5} {
		other := everything()
		other.entries[30].Time++
		for range n {
			other.add(BySystem, NodeStarted, Object{Kind: KindNode, Name: "n1"}, Details{})
		}
		o := Options{Trusted: k.trusted(t, 0), Earlier: seen}
		forge(t, "another history", parse(t, export(t, other.source(t, node, 10))), o, CheckEarlier)
	}

	// An old end with all its signatures is no forgery at all: only what the auditor kept, or a date, tells.
	old := parse(t, export(t, truncated(h, cut).source(t, k, 10)))
	o = k.demand(t)
	if r := verify(t, render(t, old), o); !r.Verified || len(r.NotChecked) != 2 {
		t.Errorf("an old end: %+v, not checked: %q", r.Failures, r.NotChecked)
	}
	o.Earlier = seen
	forge(t, "an old end", old, o, CheckEarlier)
	o.Earlier, o.Now, o.MaxAge = nil, time.Unix(1790000000+7200, 0), time.Hour
	forge(t, "an old end", old, o, CheckFresh)
}

func TestForgedCheckpointsAreCaught(t *testing.T) {
	h, k, thief := everything(), newKeys(t), newKeys(t)
	parts := parse(t, export(t, h.source(t, k, 10)))
	o := k.demand(t)
	at := where(parts, lineCheckpoint)
	quote := func(b []byte) string { j, _ := json.Marshal(string(b)); return string(j) }

	forge(t, "swapped keys", parse(t, export(t, h.source(t, thief, 10))), o, CheckSignature)
	forge(t, "one checkpoint for another", with(parts, at[2], parts[at[1]].content), o, CheckRoot)
	forge(t, "a checkpoint in another place", slices.Insert(slices.Clone(parts), at[1]+1, parts[at[0]]), o, CheckRoot)
	forge(t, "no last checkpoint", slices.Delete(slices.Clone(parts), at[len(at)-1], at[len(at)-1]+1), o, CheckTail)
	forge(t, "no checkpoint", slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.kind == lineCheckpoint }), o, CheckTail)
	forge(t, "a checkpoint that is none", with(parts, at[1], `"nothing"`), o, CheckForm)
	var msg string
	if err := json.Unmarshal([]byte(parts[at[1]].content), &msg); err != nil {
		t.Fatal(err)
	}
	forge(t, "another size", with(parts, at[1], quote([]byte(strings.Replace(msg, "\n20\n", "\n21\n", 1)))), o, CheckSignature)
	forge(t, "signed by a stranger", with(parts, at[1], quote(mustSign(t, h.tree(20).Checkpoint(origin), thief))), o, CheckSignature)
	forge(t, "of another log", with(parts, at[1], quote(mustSign(t, h.tree(20).Checkpoint("example.com/other"), k))), o, CheckOrigin)
	// The node's own key over a root that the entries do not give.
	other := h.tree(20).Checkpoint(origin)
	other.Root[0] ^= 1
	forge(t, "another root, well signed", with(parts, at[1], quote(mustSign(t, other, k))), o, CheckRoot)
	// A signature by a trusted key that is not valid is not outweighed by another that is.
	text, sigs, _ := strings.Cut(msg, "\n\n")
	lines := strings.SplitAfter(sigs, "\n")
	raw := []rune(lines[1])
	if c := &raw[len(raw)-20]; *c == 'A' {
		*c = 'B'
	} else {
		*c = 'A'
	}
	forge(t, "one of two signatures changed", with(parts, at[1], quote([]byte(text+"\n\n"+lines[0]+string(raw)))), o, CheckSignature)
	// Sections have one order.
	entry := where(parts, lineEntry)[3]
	forge(t, "a key among the entries", slices.Insert(slices.Clone(parts), entry, parts[1]), o, CheckForm)
	forge(t, "an entry after the state", slices.Insert(slices.Clone(parts), len(parts)-1, parts[entry]), o, CheckForm)
	forge(t, "a line that no bundle has", slices.Insert(slices.Clone(parts), entry, part{`{"note":`, `"x"`}), o, CheckForm)
	// What the head says is what the rest is held against.
	head := with(parts, 0, strings.Replace(parts[0].content, "keyway", "keywax", 1))
	forge(t, "the header of another log", head, o, CheckOrigin)
	forge(t, "the header of another format", with(parts, 0, strings.Replace(parts[0].content, `"format":1`, `"format":2`, 1)), o, CheckForm)
	forge(t, "a part passed for the whole", with(parts, 0, strings.Replace(parts[0].content, `"from":0`, `"from":1`, 1)), o, CheckForm)
}

// The state that is shown is the one that follows: each fact changed, dropped, invented.
func TestForgedStateIsCaught(t *testing.T) {
	h, k := everything(), newKeys(t)
	parts := parse(t, export(t, h.source(t, k, 1000)))
	o := k.demand(t)
	kinds := map[ObjectKind]bool{}
	for _, i := range where(parts, lineState) {
		f, err := DecodeFact([]byte(parts[i].content))
		if err != nil {
			t.Fatal(err)
		}
		kinds[f.Object.Kind] = true
		forge(t, "dropped "+f.Object.String(), slices.Delete(slices.Clone(parts), i, i+1), o, CheckState)
		forge(t, "doubled "+f.Object.String(), slices.Insert(slices.Clone(parts), i, parts[i]), o, CheckForm)
		for n := range fields {
			g := *f
			v := fields[n].of(&g.Details)
			if v.zero() {
				continue
			}
			// Zero is another value, and where it is not allowed, that is found too.
			reflect.ValueOf(&g.Details).Elem().FieldByName(goName(fields[n].name)).SetZero()
			b := append([]byte(`{"details":`), g.Details.write(nil, shapeSets[g.Object.Kind])...)
			b = append(g.Object.write(append(b, `,"object":`...)), '}')
			forge(t, fields[n].name+" of "+f.Object.String(), with(parts, i, string(b)), o, CheckState, CheckForm)
		}
		g := *f
		g.Object.Name += "x"
		if b, err := g.Encode(); err == nil {
			forge(t, "renamed "+f.Object.String(), with(parts, i, string(b)), o, CheckState, CheckForm)
		}
	}
	if len(kinds) != len(shapes) {
		t.Errorf("only %v have a state here", kinds)
	}
	// A version that is alive in the database and destroyed in the log, and the other way round.
	for _, swap := range [][2]string{{"destroyed-compromised", "active"}, {`"state":"active"`, `"state":"deactivated"`}} {
		for _, i := range where(parts, lineState) {
			if strings.Contains(parts[i].content, swap[0]) {
				forge(t, swap[0], with(parts, i, strings.Replace(parts[i].content, swap[0], swap[1], 1)), o, CheckState)
			}
		}
	}
}

// Whoever has every key can write any history. It must still be one that the rules allow, and lead to the state that
// is there.
func TestForbiddenHistoriesAreCaught(t *testing.T) {
	k := newKeys(t)
	find := func(h *house, a Action, n int) *Entry {
		t.Helper()
		for _, e := range h.entries {
			if e.Action == a && e.Outcome == Done {
				if n == 0 {
					return e
				}
				n--
			}
		}
		t.Fatalf("no entry %s", a)
		return nil
	}
	at := func(h *house, a Action, n int) int { return slices.Index(h.entries, find(h, a, n)) }
	drop := func(h *house, a Action, n int) {
		i := at(h, a, n)
		h.entries = slices.Delete(h.entries, i, i+1)
	}
	f := func(want Check, says, name string, change func(*house)) {
		t.Helper()
		h := everything()
		change(h)
		r := verify(t, export(t, h.source(t, k, 10)), k.demand(t))
		found := false
		for _, x := range r.Failures {
			found = found || x.Check == want && strings.Contains(x.What, says)
			if x.What == "" || x.Means == "" {
				t.Errorf("%s: a failure without words: %+v", name, x)
			}
		}
		if !found || r.Verified {
			t.Errorf("%s: want a failure of %s that says %q, got %+v", name, want, says, r.Failures)
		}
	}
	again := func(a Action, n int) func(*house) {
		return func(h *house) { e := *find(h, a, n); h.entries = append(h.entries, &e) }
	}
	without := func(a Action, n int) func(*house) { return func(h *house) { drop(h, a, n) } }
	f(CheckTransition, "illegal transition: cannot destroy a version that is active", "an illegal move", func(h *house) {
		e := find(h, StateChanged, 3)
		e.Details.Event, e.Details.To = key.Destroy, key.Destroyed
	})
	f(CheckTransition, "is said to go from suspended, and it is pre-active", "a move from a state it is not in", func(h *house) { find(h, StateChanged, 0).Details.From = key.Suspended })
	f(CheckTransition, "leads to active, not to suspended", "a move to another state than the event leads to", func(h *house) { find(h, StateChanged, 0).Details.To = key.Suspended })
	f(CheckTransition, "is said to go from suspended, and it is active", "a move left out", without(StateChanged, 4))
	f(CheckGeneration, "was activated before it was generated", "activated before it was generated", without(VersionGenerated, 0))
	f(CheckGeneration, "was generated when it was", "generated again", again(VersionGenerated, 1))
	f(CheckGeneration, "was generated when it was pre-active and generated", "generated again before it was active", func(h *house) {
		i := at(h, VersionGenerated, 0)
		h.entries = slices.Insert(h.entries, i, find(h, VersionGenerated, 0))
	})
	f(CheckErasure, "no entry says that its material was erased", "destroyed and not erased", without(MaterialErased, 0))
	f(CheckErasure, "was erased while it is active", "erased while alive", func(h *house) {
		h.add(BySystem, MaterialErased, find(h, VersionInserted, 2).Object, Details{})
	})
	f(CheckErasure, "was erased twice", "erased twice", again(MaterialErased, 0))
	f(CheckPrimary, "got version 1 as its primary one, which is destroyed-compromised", "a primary version that is not active", func(h *house) {
		h.add(BySystem, PrimarySet, find(h, KeyCreated, 0).Object, Details{Primary: 1})
	})
	f(CheckPrimary, "got version 9 as its primary one, which is not there", "a primary version that is not there", func(h *house) {
		h.add(BySystem, PrimarySet, find(h, KeyCreated, 0).Object, Details{Primary: 9})
	})
	f(CheckPrimary, "the primary version 1 of key log is compromised", "a primary version that was compromised", without(PrimarySet, 4))
	f(CheckDuplicate, "key pay was created a second time", "a key created twice", again(KeyCreated, 0))
	f(CheckDuplicate, "key log was created with an ID that was given before", "an ID used twice", func(h *house) { find(h, KeyCreated, 1).Object.ID = find(h, KeyCreated, 0).Object.ID })
	f(CheckDuplicate, "was inserted with an ID that was given before", "a version's ID used twice", func(h *house) { find(h, VersionInserted, 1).Object.ID = find(h, VersionInserted, 0).Object.ID })
	f(CheckDuplicate, "was inserted where version 2 follows", "a version left out", func(h *house) { find(h, VersionInserted, 2).Object.Number = 3 })
	f(CheckDuplicate, "client old is there twice", "taken over twice", func(h *house) { h.entries = slices.Insert(h.entries, 2, find(h, Adopted, 0)) })
	f(CheckUnknown, "a key that was never created", "a version of a key that was never made", without(KeyCreated, 0))
	f(CheckUnknown, "which was never inserted", "a version that was never inserted", without(VersionInserted, 0))
	f(CheckUnknown, "key pay version 1 has the ID", "another version under the same number", func(h *house) { find(h, StateChanged, 0).Object.ID[0]++ })
	f(CheckUnknown, "key pay has the ID", "another key under the same name", func(h *house) { find(h, PrimarySet, 0).Object.ID[0]++ })
	f(CheckUnknown, "member default/m1, which is not there", "a member that was never added", without(MemberAdded, 0))
	f(CheckUnknown, "client app, which is not there", "a client that was never created", without(ClientCreated, 0))
	f(CheckUnknown, "grant 1 was withdrawn and is not there", "a grant that was never given", without(GrantGiven, 0))
	f(CheckUnknown, "dan@example.com, who is not there", "a person who was never created", without(PersonCreated, 3))
	f(CheckUnknown, "the role operator was withdrawn from person dan@example.com, who does not have it", "a role that was never given", without(RoleGiven, 3))
	f(CheckUnknown, ", which was never made", "a plan that was never made", without(PlanMade, 0))
	f(CheckUnknown, "KEK pool/default was installed at default/m1 and was never made", "a KEK that was never made", without(KEKMade, 0))
	f(CheckUnknown, "KEK pool/default has the ID", "another KEK under the same name", func(h *house) { find(h, KEKInstalled, 0).Object.ID[0]++ })
	f(CheckUnknown, "KEK root/default/m0 was forgotten and was never made", "a KEK that was forgotten twice", again(KEKForgotten, 0))
	f(CheckUnknown, "KEK root/default/m0 has the ID", "another KEK was forgotten", func(h *house) { find(h, KEKForgotten, 0).Object.ID[0]++ })
	f(CheckDuplicate, "KEK pool/default was made a second time", "a KEK made twice", again(KEKMade, 0))
	f(CheckDuplicate, "member default/m1 was added a second time", "a member added twice", again(MemberAdded, 0))
	f(CheckDuplicate, "client app was created a second time", "a client created twice", again(ClientCreated, 0))
	f(CheckDuplicate, "person anna was created a second time", "a person created twice", again(PersonCreated, 0))
	f(CheckDuplicate, "was made a second time", "a plan made twice", again(PlanMade, 0))
	f(CheckDuplicate, "grant 1 was given after 1", "a grant's number used again", func(h *house) { find(h, GrantGiven, 1).Object.Number = 1 })
	f(CheckDuplicate, "was given the role key-manager a second time", "a role given twice", again(RoleGiven, 0))
	f(CheckKCV, "with the check value 020203, and it was made with 010203", "another KEK arrived", func(h *house) { find(h, KEKInstalled, 0).Details.KCV.b[0]++ })
	f(CheckSelfApproval, "anna approved plan", "self-approval", func(h *house) { find(h, PlanApproved, 0).Actor = h.anna })
	f(CheckApprovals, "was executed with 1 of 2 approvals", "self-approval counted", func(h *house) { find(h, PlanApproved, 0).Actor = h.anna })
	f(CheckApprovals, "was executed with 1 of 2 approvals", "an approval left out", without(PlanApproved, 1))
	f(CheckApprovals, "a second time", "one approver twice", func(h *house) { find(h, PlanApproved, 1).Actor = find(h, PlanApproved, 0).Actor })
	f(CheckApprovals, "was executed with 1 of 2 approvals", "one approver counted twice", func(h *house) { find(h, PlanApproved, 1).Actor = find(h, PlanApproved, 0).Actor })
	f(CheckApprovals, "was executed with 0 of 2 approvals", "a plan that says it needs none", func(h *house) {
		find(h, PlanMade, 0).Details.Approvals = 0
		drop(h, PlanApproved, 0)
		drop(h, PlanApproved, 0)
	})
	f(CheckPlan, "plan-approved of plan", "an approval of something else", func(h *house) { find(h, PlanApproved, 0).Details.Hash = HashOf(nil) })
	f(CheckApprovals, "was executed with 1 of 2 approvals", "an approval of something else counted", func(h *house) { find(h, PlanApproved, 0).Details.Hash = HashOf(nil) })
	f(CheckPlan, "plan-executed of plan", "something else executed", func(h *house) { find(h, PlanExecuted, 0).Details.Hash = HashOf(nil) })
	f(CheckPlan, "was approved by bert after it had expired", "approved after it expired", func(h *house) { find(h, PlanMade, 0).Details.Expires = find(h, PlanApproved, 0).Time - 1 })
	f(CheckApprovals, "was executed with 0 of 2 approvals", "late approvals counted", func(h *house) { find(h, PlanMade, 0).Details.Expires = find(h, PlanApproved, 0).Time - 1 })
	f(CheckPlan, "was executed after it had expired", "executed after it expired", func(h *house) { find(h, PlanMade, 0).Details.Expires = find(h, PlanExecuted, 0).Time - 1 })
	f(CheckPlan, "which is rejected already", "executed after it was rejected", func(h *house) {
		e := find(h, PlanRejected, 0)
		h.add(BySystem, PlanExecuted, e.Object, Details{Hash: e.Details.Hash})
	})
	f(CheckPlan, "which is open and not executed", "a step before the plan is executed", func(h *house) {
		i, j := at(h, PlanExecuted, 0), at(h, PlanExecuted, 0)+1
		h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	})
	f(CheckPlan, "which was never made", "a step of a plan that was never made", func(h *house) { find(h, JobFinished, 0).Plan[0]++ })
	f(CheckRole, "without being an approver", "approved by one who is no approver", func(h *house) { find(h, RoleGiven, 1).Details.Role = RoleOperator })
	f(CheckApprovals, "was executed with 1 of 2 approvals", "an approval by one who is no approver counted", func(h *house) { find(h, RoleGiven, 1).Details.Role = RoleOperator })
	f(CheckRole, "an auditor must have no other", "an auditor with another role", without(RoleWithdrawn, 0))
	f(CheckRole, "gave the role auditor to themselves", "a role given to oneself", func(h *house) { find(h, RoleGiven, 4).Actor.Name = "dan@example.com" })
	f(CheckDisabled, "acted after being disabled", "an order by somebody disabled", func(h *house) {
		h.by(Actor{"dan@example.com", ByToken}, LogRead, Object{Kind: KindLog, Name: "log"}, Details{})
	})
	f(CheckSequence, "after the log had begun", "something taken over late", func(h *house) { h.add(BySystem, Adopted, Object{Kind: KindClient, Name: "late"}, Details{}) })
	f(CheckSequence, "has it nowhere else", "a log that begins twice", again(LogBegun, 0))
	f(CheckSequence, "a log begins with log-begun", "a log without a beginning", without(LogBegun, 0))
	f(CheckOrigin, "the log begins as example.com/other", "a log that begins as another one", func(h *house) { h.entries[0].Details.Origin = "example.com/other" })
	f(CheckSigned, "these entries have", "written anew and forgotten that a root is in it", func(h *house) { h.entries[20].Time++ })
	f(CheckSigned, "when there were", "a checkpoint from the future", func(h *house) { find(h, CheckpointSigned, 0).Details.Size += 50 })
}

// Numbers are part of what is signed: a history with a gap, a double or a wrong order is told even when every root fits.
func TestWrongNumbersAreCaught(t *testing.T) {
	k := newKeys(t)
	f := func(name, says string, change func([]*Entry) []*Entry) {
		t.Helper()
		h := everything()
		entries := change(h.entries)
		var tree Tree
		var leaves [][]byte
		for _, e := range entries {
			leaf, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leaf)
			tree.push(tlog.RecordHash(leaf), nil)
		}
		s := Source{Origin: origin, Size: tree.size, Entries: each(leaves), Checkpoints: each([][]byte{mustSign(t, tree.Checkpoint(origin), k)}), State: h.facts()}
		r := verify(t, export(t, s), Options{Trusted: k.trusted(t, 0)})
		for _, x := range r.Failures {
			if x.Check == CheckSequence && strings.Contains(x.What, says) {
				return
			}
		}
		t.Errorf("%s: %+v", name, r.Failures)
	}
	f("a gap", "entry 71 stands where entry 70 should be", func(e []*Entry) []*Entry { return slices.Delete(e, 70, 71) })
	f("a double", "entry 70 stands where entry 71 should be", func(e []*Entry) []*Entry { return slices.Insert(e, 70, e[70]) })
	f("a wrong order", "entry 71 stands where entry 70 should be", func(e []*Entry) []*Entry { e[70], e[71] = e[71], e[70]; return e })
}

// actions that say something and change nothing: leaving them out leaves the state as it is, so that only roots and
// earlier checkpoints tell. Everything else that was done leaves a trace in the state or in what follows.
var silent = map[Action]bool{
	JobFinished: true, KEKInstalled: true, LoginRefused: true, CheckpointSigned: true, ExportMade: true, LogRead: true, BackupMade: true,
	BackupRestored: true, ConfigChanged: true, NodeStarted: true, NodeStopped: true, LeaseTaken: true,
}

func TestEveryChangeOfStateIsMissedWhenLeftOut(t *testing.T) {
	k := newKeys(t)
	seen := map[Action]bool{} // left out, and missed
	for i := range everything().entries {
		h := everything()
		e := h.entries[i]
		if e.Outcome != Done || silent[e.Action] {
			continue
		}
		h.entries = slices.Delete(h.entries, i, i+1)
		for n, e := range h.entries {
			e.Seq = Number(n)
			if e.Action == CheckpointSigned {
				e.Details.Root = RootHash(h.tree(int(e.Details.Size)).Root())
			}
		}
		if r := verify(t, export(t, h.source(t, k, 1000)), k.demand(t)); !r.Verified {
			seen[e.Action] = true
		}
	}
	for _, a := range Actions() {
		if !silent[a] && !seen[a] {
			t.Errorf("%s can be left out", a)
		}
	}
}

// A stranger's key is not trusted for having the name of one that is.
func TestNamesAreNotKeys(t *testing.T) {
	h, k, thief := everything(), newKeys(t), newKeys(t)
	mixed := keys{node: thief.node, custody: k.custody, witness: k.witness, vkeys: k.vkeys}
	r := verify(t, export(t, h.source(t, mixed, 10)), Options{Trusted: []note.Verifier{k.trusted(t, 0)[0]}})
	if r.Verified || len(r.LastCheckpoint.Good) != 0 {
		t.Errorf("%+v", r)
	}
}
