package audit

import (
	"bytes"
	"encoding/binary"
	"iter"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"keyway/lifecycle/key"
)

// house is an installation that keeps its state beside its log, as a database does, by rules of its own: what it shows is
// not derived by the code under test.
type house struct {
	entries []*Entry
	state   map[Object]*Details
	clock   Time
	ids     uint64
	anna    Actor
}

func newHouse() *house {
	h := &house{state: map[Object]*Details{}, clock: 1790000000000, anna: Actor{"anna", ByCertificate}}
	h.add(BySystem, LogBegun, Object{Kind: KindLog, Name: "log"}, Details{Origin: origin})
	return h
}

func (h *house) id() (id key.ID) {
	h.ids++
	binary.BigEndian.PutUint64(id[:], h.ids)
	id[15] = 1
	return id
}

// add appends an entry by the system.
func (h *house) add(auth Auth, a Action, o Object, d Details) *Entry {
	h.clock += 1000
	e := &Entry{Seq: Number(len(h.entries)), Time: h.clock, Node: "n1", Actor: Actor{"keyway", auth}, Action: a, Object: o, Outcome: Done, Details: d}
	h.entries = append(h.entries, e)
	return e
}

func (h *house) by(who Actor, a Action, o Object, d Details) *Entry {
	e := h.add(BySystem, a, o, d)
	e.Actor = who
	return e
}

// keyNamed returns a key and its versions, oldest first.
func (h *house) keyNamed(name Name) (Object, []Object) {
	var k Object
	var versions []Object
	for o := range h.state {
		if o.Kind == KindKey && o.Name == name {
			k = o
		}
		if o.Kind == KindVersion && o.Name == name {
			versions = append(versions, o)
		}
	}
	slices.SortFunc(versions, CompareObjects)
	return k, versions
}

func (h *house) createKey(name Name) {
	k := Object{Kind: KindKey, Name: name, ID: h.id()}
	d := Details{Algorithm: key.ECP256, Usages: key.Sign | key.Verify, Pool: "default"}
	h.by(h.anna, KeyCreated, k, d)
	h.state[k] = &d
	h.newVersion(k)
}

// newVersion makes the next version of a key the primary one.
func (h *house) newVersion(k Object) {
	_, versions := h.keyNamed(k.Name)
	v := Object{Kind: KindVersion, Name: k.Name, Number: Number(len(versions) + 1), ID: h.id()}
	h.by(h.anna, VersionInserted, v, Details{RecipientEnd: 1900000000000})
	h.state[v] = &Details{State: key.PreActive, RecipientEnd: 1900000000000}
	h.add(BySystem, VersionGenerated, v, Details{Public: HashOf([]byte(v.ID.String()))})
	h.state[v].Generated, h.state[v].Public = true, HashOf([]byte(v.ID.String()))
	h.change(v, key.Activate, key.Active)
	for _, o := range versions {
		switch h.state[o].State {
		case key.Active, key.Suspended:
			h.change(o, key.Deactivate, key.Deactivated)
		}
	}
	h.primary(k, v.Number)
}

func (h *house) primary(k Object, n Number) {
	h.add(BySystem, PrimarySet, k, Details{Primary: n})
	h.state[k].Primary = n
}

func (h *house) change(v Object, e key.Event, to key.State) *Entry {
	d := h.state[v]
	out := h.by(h.anna, StateChanged, v, Details{From: d.State, Event: e, To: to, Reason: "as ordered"})
	d.State = to
	if k, _ := h.keyNamed(v.Name); h.state[k].Primary == v.Number && to != key.Active && to != key.Suspended {
		h.primary(k, 0)
	}
	if to == key.Destroyed || to == key.DestroyedCompromised {
		if !d.Erased {
			h.add(BySystem, MaterialErased, v, Details{})
			d.Erased = true
		}
	}
	return out
}

func (h *house) person(name Name, role Role) Actor {
	o := Object{Kind: KindPerson, Name: name}
	d := Details{Certificates: []Hash{HashOf([]byte(name))}}
	h.add(BySystem, PersonCreated, o, d)
	h.add(BySystem, RoleGiven, o, Details{Role: role})
	h.state[o] = &Details{Certificates: d.Certificates, Roles: []Role{role}}
	return Actor{Principal(name), ByCertificate}
}

// plan makes a plan that is approved and executed.
func (h *house) plan(who Actor, approvers ...Actor) Object {
	p := Object{Kind: KindPlan, ID: h.id()}
	hash := HashOf(p.ID[:])
	h.by(who, PlanMade, p, Details{Command: "destroy", Approvals: Number(len(approvers)), Hash: hash, Expires: h.clock + 1e9})
	d := &Details{Command: "destroy", Approvals: Number(len(approvers)), Hash: hash, Expires: h.clock - 1000 + 1e9, Requester: who.Name, Status: PlanOpen}
	h.state[p] = d
	for _, a := range approvers {
		h.by(a, PlanApproved, p, Details{Hash: hash})
		d.Approvers = append(d.Approvers, a.Name)
	}
	if len(approvers) > 0 {
		h.add(BySystem, PlanExecuted, p, Details{Hash: hash})
		d.Status = PlanDone
	}
	return p
}

// everything does everything that can be done.
func everything() *house {
	h := newHouse()
	old := Object{Kind: KindClient, Name: "old"}
	h.add(BySystem, Adopted, old, Details{Rate: 500})
	h.state[old] = &Details{Rate: 500}
	h.add(BySystem, NodeStarted, Object{Kind: KindNode, Name: "n1"}, Details{Reason: "version 0.9"})
	h.add(BySystem, LeaseTaken, Object{Kind: KindNode, Name: "n1"}, Details{Epoch: 3})
	h.anna = h.person("anna", RoleKeyManager)
	bert, cleo := h.person("bert", RoleApprover), h.person("cleo", RoleApprover)

	kek := Object{Kind: KindKEK, Name: "pool/default", ID: h.id()}
	kcv, _ := KCVOf([]byte{1, 2, 3})
	h.add(BySystem, KEKMade, kek, Details{KCV: kcv})
	h.state[kek] = &Details{KCV: kcv}
	m := Object{Kind: KindMember, Name: "default/m1"}
	h.by(h.anna, MemberAdded, m, Details{Driver: "pkcs11", Config: HashOf([]byte("m1"))})
	h.state[m] = &Details{Config: HashOf([]byte("m1"))}
	h.add(BySystem, KEKInstalled, kek, Details{KCV: kcv, Member: "default/m1"})
	root := Object{Kind: KindKEK, Name: "root/default/m0", ID: h.id()}
	h.add(BySystem, KEKMade, root, Details{KCV: kcv})
	h.by(h.anna, KEKForgotten, root, Details{})
	gone := Object{Kind: KindMember, Name: "default/m0"}
	h.by(h.anna, MemberAdded, gone, Details{Driver: "soft", Config: HashOf(nil)})
	h.by(h.anna, MemberRemoved, gone, Details{})
	h.by(h.anna, MemberDrained, m, Details{})
	h.by(h.anna, MemberResumed, m, Details{})
	h.by(h.anna, MemberChanged, m, Details{Config: HashOf([]byte("m1 again"))})
	h.state[m].Config = HashOf([]byte("m1 again"))
	h.add(BySystem, MemberLatched, m, Details{Reason: "CKR_PIN_INCORRECT"})
	h.by(h.anna, LatchCleared, m, Details{})
	h.add(BySystem, MemberLatched, m, Details{Reason: "CKR_PIN_INCORRECT"})
	h.by(h.anna, MemberDrained, m, Details{})
	h.state[m].Latched, h.state[m].Drained = true, true

	h.createKey("pay")
	h.createKey("log")
	k, _ := h.keyNamed("pay")
	h.newVersion(k)
	_, v := h.keyNamed("pay")
	h.change(v[1], key.Suspend, key.Suspended)
	h.change(v[1], key.Resume, key.Active)
	p := h.plan(h.anna, bert, cleo)
	h.change(v[0], key.Destroy, key.Destroyed).Plan = p.ID
	h.change(v[0], key.Compromise, key.DestroyedCompromised)
	h.add(BySystem, JobFinished, Object{Kind: KindJob, ID: h.id()}, Details{Command: "remove", Target: "site-b", Count: 2}).Plan = p.ID
	h.by(h.anna, PeriodsSet, v[1], Details{OriginatorEnd: 1850000000000, RecipientEnd: 1900000000000})
	h.state[v[1]].OriginatorEnd = 1850000000000
	_, w := h.keyNamed("log")
	h.change(w[0], key.Compromise, key.Compromised)
	for _, a := range []Action{PlanRejected, PlanExpired} {
		p := h.plan(h.anna)
		d := Details{}
		h.state[p].Status = PlanStale
		if a == PlanRejected {
			d.Hash = HashOf(p.ID[:])
			h.state[p].Status = PlanNo
		}
		h.by(bert, a, p, d)
	}
	h.plan(h.anna)

	c := Object{Kind: KindClient, Name: "app"}
	h.by(h.anna, ClientCreated, c, Details{Groups: []Name{"web", "eu"}, Tokens: []Hash{HashOf([]byte("t1"))}})
	h.by(h.anna, ClientChanged, c, Details{Groups: []Name{"web"}, Tokens: []Hash{HashOf([]byte("t1"))}, Rate: 2500, Burst: 10})
	h.by(h.anna, TokenIssued, c, Details{Tokens: []Hash{HashOf([]byte("t2"))}})
	h.state[c] = &Details{Groups: []Name{"web"}, Tokens: []Hash{HashOf([]byte("t2"))}, Rate: 2500, Burst: 10}
	tmp := Object{Kind: KindClient, Name: "tmp"}
	h.by(h.anna, ClientCreated, tmp, Details{Disabled: true})
	h.by(h.anna, ClientDeleted, tmp, Details{})
	for n := Number(1); n <= 2; n++ {
		g := Object{Kind: KindGrant, Number: n}
		d := Details{Client: "app", Pattern: "pay-*", Usages: key.Sign}
		h.by(h.anna, GrantGiven, g, d)
		h.state[g] = &d
	}
	h.by(h.anna, GrantWithdrawn, Object{Kind: KindGrant, Number: 1}, Details{})
	delete(h.state, Object{Kind: KindGrant, Number: 1})

	dan := Object{Kind: KindPerson, Name: "dan@example.com"}
	h.person(dan.Name, RoleOperator)
	h.by(h.anna, PersonChanged, dan, Details{Tokens: []Hash{HashOf([]byte("t3"))}})
	h.by(h.anna, RoleWithdrawn, dan, Details{Role: RoleOperator})
	h.by(h.anna, RoleGiven, dan, Details{Role: RoleAuditor})
	h.by(h.anna, PersonDisabled, dan, Details{Reason: "left"})
	h.by(h.anna, PersonEnabled, dan, Details{})
	h.by(h.anna, PersonDisabled, dan, Details{Reason: "left"})
	h.state[dan] = &Details{Tokens: []Hash{HashOf([]byte("t3"))}, Roles: []Role{RoleAuditor}, Disabled: true}
	refused := h.by(Actor{"dan@example.com", ByNothing}, LoginRefused, Object{Kind: KindNode, Name: "n1"}, Details{Reason: "disabled"})
	refused.Outcome = Refused
	h.by(h.anna, StateChanged, v[1], Details{From: key.Active, Event: key.Destroy, To: key.Destroyed}).Outcome = Refused

	h.by(h.anna, LogRead, Object{Kind: KindLog, Name: "log"}, Details{Start: 5, Count: 10})
	h.by(h.anna, ConfigChanged, Object{Kind: KindConfig, Name: "keyway"}, Details{Hash: HashOf([]byte("config"))})
	h.add(BySystem, BackupMade, Object{Kind: KindBackup, Name: "b1"}, Details{Hash: HashOf([]byte("backup")), Size: 9})
	h.by(h.anna, BackupRestored, Object{Kind: KindBackup, Name: "b1"}, Details{Hash: HashOf([]byte("backup")), Size: 9})
	t := h.tree(len(h.entries))
	h.add(BySystem, CheckpointSigned, Object{Kind: KindLog, Name: "log"}, Details{Size: Number(t.size), Root: RootHash(t.Root()), Signers: []Principal{"example.com/keyway"}})
	h.by(h.anna, ExportMade, Object{Kind: KindLog, Name: "log"}, Details{Size: Number(t.size), Root: RootHash(t.Root())})
	h.add(BySystem, NodeStopped, Object{Kind: KindNode, Name: "n1"}, Details{})
	return h
}

// tree returns the tree of the first n entries.
func (h *house) tree(n int) Tree {
	t, _ := h.log(n)
	return t
}

func (h *house) log(n int) (Tree, *memory) {
	t, b, err := Tree{}.Append(h.entries[:n]...)
	if err != nil {
		panic(err)
	}
	return t, &memory{leaves: b.Leaves, hashes: b.Hashes}
}

// facts are the state as the house keeps it.
func (h *house) facts() iter.Seq2[*Fact, error] {
	return func(yield func(*Fact, error) bool) {
		for _, o := range slices.SortedFunc(maps.Keys(h.state), CompareObjects) {
			if !yield(&Fact{o, *h.state[o]}, nil) {
				return
			}
		}
	}
}

func each[T any](list []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
	}
}

// source returns the whole log with a checkpoint every few entries, all of them signed by node and custody, the last by the
// witness too.
func (h *house) source(t tb, k keys, every int) Source {
	t.Helper()
	tree, m := h.log(len(h.entries))
	var notes [][]byte
	for n := every; n < len(m.leaves); n += every {
		notes = append(notes, h.note(t, n, k))
	}
	last, err := AddSignatures(h.note(t, len(m.leaves), k), k.witness)
	if err != nil {
		t.Fatal(err)
	}
	return Source{
		Origin: origin, Size: tree.size, Made: time.UnixMilli(int64(h.clock)), Keys: k.vkeys, Entries: each(m.leaves), Checkpoints: each(append(notes, last)), State: h.facts(),
	}
}

func (h *house) note(t tb, n int, k keys) []byte {
	t.Helper()
	_, m := h.log(n)
	root, err := tlog.TreeHash(int64(n), m) // not by the code under test
	if err != nil {
		t.Fatal(err)
	}
	msg, err := Checkpoint{origin, int64(n), root}.Sign(k.node, k.custody)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func export(t tb, s Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Export(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// demand is what a careful auditor asks for.
func (k keys) demand(t tb) Options {
	return Options{Trusted: k.trusted(t, 0, 2), Required: k.trusted(t, 1), MinApprovals: 2, Tolerance: time.Second}
}

func verify(t tb, b []byte, o Options) *Report {
	t.Helper()
	r, err := Verify(bytes.NewReader(b), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tb is what helpers need of a test, a property or a benchmark.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}
