package main

import (
	"database/sql"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keyway/lifecycle/audit"
)

// auditor is somebody with the files of exports and the program to check them.
type auditor struct {
	r       *running
	program string
	dir     string
	n       int
}

func newAuditor(r *running) *auditor {
	a := &auditor{r: r, dir: r.t.TempDir()}
	a.program = filepath.Join(a.dir, "auditverify")
	if out, err := exec.Command("go", "build", "-o", a.program, "keyway/cmd/auditverify").CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	return a
}

// export exports the log and returns the file, or what was said when it could not.
func (a *auditor) export(args ...string) (file, said string) {
	a.r.t.Helper()
	a.n++
	file = filepath.Join(a.dir, "log."+string(rune('a'+a.n)))
	code, _, said := a.r.order(append([]string{"audit", "export", file}, args...)...)
	if code == 0 {
		return file, ""
	}
	if _, err := os.Stat(file); err == nil {
		a.r.t.Error("an export that failed left a file behind")
	}
	return "", said
}

// verify checks a file with auditverify, and with keyway, which must say the same.
func (a *auditor) verify(file string, args ...string) (r audit.Report) {
	a.r.t.Helper()
	key := filepath.Join(a.r.dir, "audit.key.pub")
	c := exec.Command(a.program, append(append([]string{"-json", "-trust", key}, args...), file)...)
	c.Env = []string{}
	out, err := c.Output()
	if e := json.Unmarshal(out, &r); e != nil {
		a.r.t.Fatalf("%s: %v, %v", out, err, e)
	}
	if (err == nil) != r.Verified {
		a.r.t.Errorf("auditverify ends with %v, and verified is %t", err, r.Verified)
	}
	for i := range args {
		args[i] = strings.Replace(args[i], "-", "--", 1)
	}
	if code, answer, said := a.r.order(append([]string{"audit", "verify", file, "--trust", key}, args...)...); answer["verified"] != r.Verified || (code == 0) != r.Verified {
		a.r.t.Errorf("keyway audit verify says %v (%d %s), auditverify %t", answer["verified"], code, said, r.Verified)
	}
	return r
}

// Whatever operators order is in the log, an auditor verifies it offline, and what somebody changes in the database is noticed.
func TestTheLogOfAWholeLife(t *testing.T) {
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	for _, file := range []string{"audit.key", "audit.key.pub"} {
		if st, err := os.Stat(filepath.Join(r.dir, file)); err != nil || file == "audit.key" && st.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", file, st, err)
		}
	}
	a := newAuditor(r)
	first, said := a.export()
	if said != "" {
		t.Fatal(said)
	}
	kept := filepath.Join(a.dir, "kept")
	if v := a.verify(first, "-keep", kept); !v.Verified {
		t.Fatalf("a new log: %+v", v.Failures)
	}
	for _, order := range []string{
		"key create life --algorithm ec-p256", "key rotate life", "key disable life", "key enable life", "key rotate life", "key compromise life --version 1", "key destroy life --version 1",
		"key destroy life --version 2", "key compromise life --version 2", "key deactivate life",
		"client create app --group web --rate 2.5", "client token app", "grant create --group web --pattern life --usage sign",
		"member drain m3", "member resume m3", "member remove m3 --forget-token",
	} {
		r.ordered(strings.Fields(order)...)
	}
	grants := r.ordered("grant", "list")["grants"].([]any)
	r.ordered("grant", "delete", trim(grants[len(grants)-1].(map[string]any)["id"]))
	r.ordered("client", "delete", "app")
	r.ordered("key", "compromise", "demo-mac")

	whole, said := a.export()
	if said != "" {
		t.Fatal(said)
	}
	v := a.verify(whole, "-earlier", kept)
	if !v.Verified {
		t.Fatalf("%+v", v.Failures)
	}
	for _, action := range []audit.Action{
		audit.KeyCreated, audit.VersionInserted, audit.VersionGenerated, audit.StateChanged, audit.MaterialErased, audit.PrimarySet, audit.KEKMade, audit.KEKInstalled, audit.KEKForgotten,
		audit.MemberAdded, audit.MemberDrained, audit.MemberResumed, audit.MemberRemoved, audit.ClientCreated, audit.TokenIssued, audit.ClientDeleted, audit.GrantGiven, audit.GrantWithdrawn,
		audit.ExportMade, audit.NodeStarted,
	} {
		if v.Actions[action] == 0 {
			t.Errorf("nothing in the log is %s", action)
		}
	}
	// A part from where the first one ended, with the checkpoint that was kept.
	part, said := a.export("--from", trim(float64(a.verify(first).Size)))
	if said != "" {
		t.Fatal(said)
	}
	if v := a.verify(part, "-earlier", kept); !v.Verified {
		t.Errorf("a part: %+v", v.Failures)
	}

	list := r.ordered("audit", "list", "--key", "life")["entries"].([]any)
	var told []string
	for _, e := range list {
		e := e.(map[string]any)
		told = append(told, e["action"].(string))
		if who := e["actor"].(map[string]any); who["name"] != demoAdmin || who["auth"] != "token" {
			t.Errorf("%v was done by %v", e["action"], who)
		}
	}
	if len(told) < 15 || told[0] != "key-created" || !slices.Contains(told, "material-erased") {
		t.Errorf("the log of the key is %v", told)
	}
	if code, _, said := r.order("audit", "export", filepath.Join(a.dir, "no"), "--from", "99999"); code != exitFailed || !strings.Contains(said, "99999") {
		t.Errorf("a part that is not there: %d %s", code, said)
	}

	tamper(t, a)

	// After a restart the same key goes on.
	r.stop(os.Interrupt)
	again := startDev(t, onEmbedded, r.dir)
	a.r = again
	after, said := a.export()
	if said != "" {
		t.Fatal(said)
	}
	if v := a.verify(after, "-earlier", kept); !v.Verified || v.Actions[audit.NodeStopped] == 0 || v.Checkpoints < 2 {
		t.Errorf("after a restart: %+v with %d checkpoints", v.Failures, v.Checkpoints)
	}
}

// tamper changes the database behind the node's back, in ways that must not pass, and changes it back.
func tamper(t *testing.T, a *auditor) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(a.r.dir, "keyway.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(query string) {
		t.Helper()
		res, err := db.Exec(query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			t.Fatalf("%s: touched nothing, %v", query, err)
		}
	}
	entry := "(SELECT seq FROM audit_leaves WHERE entry LIKE '%state-changed%demo-mac%')"
	for name, c := range map[string]struct {
		do, undo string
		check    audit.Check // "": it cannot even be exported
	}{
		"a state":           {"UPDATE versions SET state = 'active' WHERE state = 'compromised'", "UPDATE versions SET state = 'compromised' WHERE key_id = (SELECT id FROM keys WHERE name = 'demo-mac')", audit.CheckState},
		"a primary version": {"UPDATE keys SET primary_version = 1 WHERE name = 'demo-mac'", "UPDATE keys SET primary_version = 0 WHERE name = 'demo-mac'", audit.CheckState},
		"a grant":           {`INSERT INTO grants (id, document) VALUES (999, '{"client":"demo","pattern":"*","usages":["sign"]}')`, "DELETE FROM grants WHERE id = 999", audit.CheckState},
		"an actor":          {"UPDATE audit_leaves SET entry = replace(entry, 'dev-admin', 'dev-admiN') WHERE seq = " + entry, "UPDATE audit_leaves SET entry = replace(entry, 'dev-admiN', 'dev-admin') WHERE seq = " + entry, audit.CheckRoot},
		"a dropped entry":   {"UPDATE audit_leaves SET seq = -1 WHERE seq = 20", "UPDATE audit_leaves SET seq = 20 WHERE seq = -1", ""},
	} {
		do(c.do)
		file, said := a.export()
		switch {
		case c.check == "" && !strings.Contains(said, "entry 20 is missing"):
			t.Errorf("%s: exported as %q, %s", name, file, said)
		case c.check != "" && said != "":
			t.Errorf("%s: %s", name, said)
		case c.check != "":
			v := a.verify(file)
			if v.Verified || !slices.ContainsFunc(v.Failures, func(f audit.Finding) bool { return f.Check == c.check }) {
				t.Errorf("%s: verified %t with %+v, want a failure of %s", name, v.Verified, v.Failures, c.check)
			}
		}
		do(c.undo)
	}
	file, said := a.export()
	if said != "" || !a.verify(file).Verified {
		t.Errorf("with everything put back: %s", said)
	}
}

// trim writes a number of JSON as a whole one.
func trim(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
