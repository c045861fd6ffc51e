package main

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// program is the auditverify that these tests run, built once as auditors get it.
var program string

func TestMain(m *testing.M) { os.Exit(withProgram(m)) }

func withProgram(m *testing.M) int {
	dir, err := os.MkdirTemp("", "auditverify-")
	if err == nil {
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "auditverify")
		c := exec.Command("go", "build", "-trimpath", "-o", program, ".")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = c.CombinedOutput(); err != nil {
			err = fmt.Errorf("building auditverify: %w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// desk is an auditor's directory: a bundle, and the keys of its signers in files.
type desk struct {
	t   *testing.T
	dir string
	log []*audit.Entry
	// signers of checkpoints
	node, custody note.Signer
	vkeys         []string
}

const origin = "example.com/keyway"

func newDesk(t *testing.T) *desk {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	node, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	custody, err := audit.NewCustodySigner("custody", &ec.PublicKey, func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		r, s, err := ecdsa.Sign(rand.Reader, ec, digest[:])
		if err != nil {
			return nil, err
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	custodyKey, err := audit.ECDSAVerifierKey("custody", &ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, dir: t.TempDir(), node: node, custody: custody, vkeys: []string{vkey, custodyKey}}
	d.file("node.vkey", "# the node\n"+vkey+"\n")
	d.file("custody.vkey", custodyKey+"\n")
	d.add(audit.LogBegun, audit.Object{Kind: audit.KindLog, Name: "log"}, audit.Details{Origin: origin})
	d.add(audit.KeyCreated, audit.Object{Kind: audit.KindKey, Name: "pay", ID: key.ID{1}}, audit.Details{Algorithm: key.ECP256, Usages: key.Sign, Pool: "default"})
	return d
}

func (d *desk) add(a audit.Action, o audit.Object, det audit.Details) {
	d.log = append(d.log, &audit.Entry{Time: audit.Time(1790000000000 + len(d.log)), Node: "n1", Actor: audit.Actor{Name: "anna", Auth: audit.ByToken}, Action: a, Object: o, Outcome: audit.Done, Details: det})
}

func (d *desk) file(name, content string) string {
	d.t.Helper()
	p := filepath.Join(d.dir, name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return p
}

func each[T any](list ...T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, x := range list {
			if !yield(x, nil) {
				return
			}
		}
	}
}

// bundle writes the log, signed by signers.
func (d *desk) bundle(name string, signers ...note.Signer) {
	d.t.Helper()
	tree, batch, err := audit.Tree{}.Append(d.log...)
	if err != nil {
		d.t.Fatal(err)
	}
	msg, err := tree.Checkpoint(origin).Sign(signers...)
	if err != nil {
		d.t.Fatal(err)
	}
	replay := audit.NewReplay()
	for _, e := range d.log {
		replay.Apply(e)
	}
	var b bytes.Buffer
	err = audit.Export(&b, audit.Source{
		Origin: origin, Size: tree.Size(), Made: time.Unix(1790000000, 0), Keys: d.vkeys, Entries: each(batch.Leaves...), Checkpoints: each(msg),
		State: func(yield func(*audit.Fact, error) bool) {
			for f := range replay.Facts() {
				if !yield(f, nil) {
					return
				}
			}
		},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.file(name, b.String())
}

// run runs auditverify on the desk and expects an exit code.
func (d *desk) run(code int, args ...string) (stdout, stderr string) {
	d.t.Helper()
	c := exec.Command(program, args...)
	var o, e bytes.Buffer
	c.Dir, c.Stdout, c.Stderr = d.dir, &o, &e
	c.Env = []string{} // nothing of the environment is needed
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	if got := c.ProcessState.ExitCode(); got != code {
		d.t.Fatalf("auditverify %q: exit code %d, want %d\n%s%s", args, got, code, &o, &e)
	}
	return o.String(), e.String()
}

func (d *desk) wants(text string, words ...string) {
	d.t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			d.t.Errorf("nothing of %q in:\n%s", w, text)
		}
	}
}

func TestABundleIsVerified(t *testing.T) {
	d := newDesk(t)
	d.bundle("b1", d.node, d.custody)
	out, _ := d.run(exitVerified, "-trust", "node.vkey", "-require", "custody.vkey", "-keep", "kept", "b1")
	d.wants(out, "VERIFIED\n", "example.com/keyway", "2, from 0 to 1", "signed by custody+", "NOT CHECKED")
	// The next time, the log has grown, and continues.
	d.add(audit.NodeStopped, audit.Object{Kind: audit.KindNode, Name: "n1"}, audit.Details{})
	d.bundle("b2", d.node, d.custody)
	out, _ = d.run(exitVerified, "-trust", d.vkeys[0], "-earlier", "kept", "-list", "b2")
	d.wants(out, "anna created key pay", "2026-09-21T14:13:20Z", "compared     with the log of 2 entries")
	// A key that signed nothing is missed, another history is noticed, and says where.
	d.bundle("b3", d.node)
	out, _ = d.run(exitFailed, "-trust", "node.vkey", "-require", "custody.vkey", "b3")
	d.wants(out, "NOT VERIFIED: 1 failures", "is not signed by custody+", "[required-signature]", "may not have had that key")
	d.log[1].Details.Pool = "other"
	d.bundle("b4", d.node, d.custody)
	out, _ = d.run(exitFailed, "-trust", "node.vkey", "-earlier", "kept", "-keep", "not-kept", "b4")
	d.wants(out, "NOT VERIFIED", "the first 2 entries are not those of the checkpoint you kept", "[earlier-checkpoint]")
	if _, err := os.Stat(filepath.Join(d.dir, "not-kept")); err == nil {
		t.Error("a checkpoint that was not verified was kept")
	}
	// A failure names its entry.
	d.add(audit.MemberDrained, audit.Object{Kind: audit.KindMember, Name: "default/m9"}, audit.Details{})
	d.bundle("b5", d.node)
	out, _ = d.run(exitFailed, "-trust", "node.vkey", "b5")
	d.wants(out, "entry 3 (line 7): member-drained of member default/m9, which is not there [unknown-object]", "was removed, or this one was invented")
}

func TestTheReportAsJSON(t *testing.T) {
	d := newDesk(t)
	d.bundle("b", d.node)
	out, _ := d.run(exitFailed, "-trust", "node.vkey", "-require", "custody.vkey", "--json", "b")
	var r audit.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Verified || r.FailuresTotal != 1 || r.Failures[0].Check != audit.CheckRequired || r.Actions[audit.KeyCreated] != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(out, "null") {
		t.Errorf("lists that are null:\n%s", out)
	}
}

func TestStandardInputAndCompression(t *testing.T) {
	d := newDesk(t)
	d.bundle("b", d.node)
	b, err := os.ReadFile(filepath.Join(d.dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(b)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-trust", d.vkeys[0], "-")
	c.Stdin = &z
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWhatCannotBeVerifiedIsNotAFailure(t *testing.T) {
	d := newDesk(t)
	d.bundle("b", d.node)
	d.file("empty", "# no key\n")
	d.file("garbage", "no checkpoint")
	f := func(want string, args ...string) {
		t.Helper()
		_, stderr := d.run(exitNothing, args...)
		d.wants(stderr, want)
	}
	f("at least one key you trust", "b")
	f("name one bundle", "-trust", "node.vkey")
	f("name one bundle", "-trust", "node.vkey", "b", "b")
	f("no such file", "-trust", "node.vkey", "nowhere")
	f("no such file", "-trust", "nowhere", "b")
	f("holds no key", "-trust", "empty", "b")
	f("want name+hash+key", "-trust", "garbage", "b")
	f("mistyped", "-trust", strings.Replace(d.vkeys[0], "example", "exbmple", 1), "b")
	f("no such file", "-trust", "node.vkey", "-earlier", "nowhere", "b")
	f("earlier checkpoint", "-trust", "node.vkey", "-earlier", "garbage", "b")
	f("64 lower-case", "-trust", "node.vkey", "-earlier-state", "x", "b")
	f("do not go together", "-trust", "node.vkey", "-json", "-list", "b")
	f("not defined", "-nonsense", "b")
	f("is a directory", "-trust", "node.vkey", d.dir)
}

// What auditors get needs nothing of the machine it runs on.
func TestTheProgramIsStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ELF files are looked at here")
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) != 0 || f.Section(".interp") != nil {
		t.Errorf("it wants %q, %v", libs, err)
	}
}
