//go:build linux && cgo

package faulthsm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyway/hsm"
)

// eventually waits until f is true; the test's own time limit ends it otherwise.
func (r *rig) eventually(what string, f func() bool) {
	r.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); {
		if time.Now().After(end) {
			r.Fatalf("it never came about that %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestControlFileIsFollowed(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	if st := r.status(); st.ControlFile != "absent" || st.Statements != 0 {
		t.Errorf("at first: %+v", st)
	}
	file := Rule{ID: "a", On: []string{"C_Sign"}, Skip: 2, Do: []Effect{Return(hsm.FunctionFailed)}}
	if err := r.m.Apply(r.ctx(), file); err != nil {
		t.Fatal(err)
	}
	if got := r.macs(s, key, 4); !slices.Equal(got, []int{3, 4}) {
		t.Errorf("failed %v", got)
	}
	// A statement that stays goes on counting.
	if err := r.m.Apply(r.ctx(), Text("# more"), fails("b", "C_Verify"), file); err != nil {
		t.Fatal(err)
	}
	if i := r.item("a"); i.Seen != 4 || i.Fired != 2 || !i.File {
		t.Errorf("after a change of another statement %+v", i)
	}
	// One that changes begins anew.
	file.Skip = 3
	if err := r.m.Apply(r.ctx(), file); err != nil {
		t.Fatal(err)
	}
	if got := r.macs(s, key, 4); !slices.Equal(got, []int{4}) {
		t.Errorf("failed %v", got)
	}
	// Written in place by somebody else, not moved there.
	if err := os.WriteFile(r.m.Control, []byte("seed 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.eventually("a file that was overwritten was read", func() bool { return r.status().Statements == 1 && r.macs(s, key, 1) == nil })
	if err := r.m.Apply(r.ctx(), fails("a", "C_Sign")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(r.m.Control); err != nil {
		t.Fatal(err)
	}
	r.eventually("a file that was removed was missed", func() bool { return r.status().ControlFile == "absent" })
	if got := r.macs(s, key, 2); len(got) != 0 {
		t.Errorf("without a file %v failed", got)
	}
}

func TestABadControlFileChangesNothing(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	good := fails("a", "C_Sign")
	if err := r.m.Apply(r.ctx(), good); err != nil {
		t.Fatal(err)
	}
	r.add(fails("mine", "C_Verify"))
	before, err := r.conn.List(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ text, want string }{
		{"seed 1\nrule b on C_Sing do hang\n", "line 2: unknown function \"C_Sing\": did you mean C_Sign?"},
		{"rule mine on C_Sign do hang\n", "there is an item \"mine\" from the socket already: write another id, or remove that one first"},
		{strings.Repeat("#", 1<<20) + "\n#\n", "has more than 1048576 bytes"},
	} {
		if len(c.text) <= 1<<20 {
			err := r.m.Apply(r.ctx(), Text(strings.TrimSuffix(c.text, "\n")))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Apply: %v, want %q", err, c.want)
			}
		} else if err := replace(r.m.Control, []byte(c.text)); err != nil {
			t.Fatal(err)
		}
		if err := r.conn.Reload(r.ctx()); !IsRefusal(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("reload: %v, want %q", err, c.want)
		}
		if st := r.status(); st.ControlFile != "error" || !strings.Contains(st.ControlError, c.want) {
			t.Errorf("status: %q %q, want %q", st.ControlFile, st.ControlError, c.want)
		}
		if now, err := r.conn.List(r.ctx()); err != nil || !slices.Equal(now, before) {
			t.Errorf("after a bad file the statements are\n%+v\nwant\n%+v\n%v", now, before, err)
		}
	}
	if got := r.macs(s, key, 1); len(got) != 1 {
		t.Error("the old rule does not act any more")
	}
	if err := r.m.Apply(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if st := r.status(); st.ControlFile != "ok" || st.ControlError != "" || st.Statements != 1 {
		t.Errorf("after a good file %+v", st)
	}
}

func TestSocketAndFileTogether(t *testing.T) {
	r := softHSM(t)
	if err := r.m.Apply(r.ctx(), PINTries(3), fails("a", "C_Sign")); err != nil {
		t.Fatal(err)
	}
	r.add(PINTries(5)) // the socket's takes precedence
	if i := r.item("pin-tries"); i.Text != "pin tries 5" || i.File {
		t.Errorf("%+v", i)
	}
	r.remove("pin-tries") // both are gone until the file changes
	if st := r.status(); st.Statements != 1 {
		t.Errorf("%d statements", st.Statements)
	}
	if err := r.conn.Reload(r.ctx()); err != nil {
		t.Fatal(err)
	}
	if i := r.item("pin-tries"); i.Text != "pin tries 3" || !i.File {
		t.Errorf("%+v", i)
	}
	if err := r.conn.Add(r.ctx(), fails("a", "C_Sign")); !IsRefusal(err) || !strings.Contains(err.Error(), `"a" from the control file`) {
		t.Errorf("a rule with the id of one in the file: %v", err)
	}
	r.add(fails("b", "C_Sign"))
	// All or none.
	err := r.conn.Add(r.ctx(), fails("c", "C_Sign"), fails("b", "C_Verify"))
	if !IsRefusal(err) || !strings.Contains(err.Error(), `a rule "b" already`) {
		t.Errorf("a rule with an id that is taken: %v", err)
	}
	if err := r.conn.Add(r.ctx(), fails("c", "C_Sign"), Text("rule d on C_Sign do")); !IsRefusal(err) || !strings.Contains(err.Error(), "line 2: the line ends") {
		t.Errorf("a batch with a mistake: %v", err)
	}
	if _, err := r.conn.Item(r.ctx(), "c"); err == nil {
		t.Error("half a batch is in force")
	}
	if err := r.conn.Clear(r.ctx()); err != nil || r.status().Statements != 0 {
		t.Errorf("after clear: %d statements, %v", r.status().Statements, err)
	}
}

func TestVerbsRefuse(t *testing.T) {
	r := softHSM(t)
	for command, want := range map[string]string{
		"":                          "unknown verb",
		"rules":                     "write help",
		"remove":                    "write remove and an id",
		"remove nobody":             `no statement "nobody"`,
		"release nobody":            `no statement "nobody"`,
		"release":                   "release all",
		"log none":                  "log 20",
		"log 0":                     "log 20",
		"now":                       "an effect should be",
		"now hang":                  "write a rule",
		"now logout hard":           "too much",
		"rule a on C_Sign do":       "an effect should be",
		"clear all":                 "unknown verb",
		strings.Repeat("x", 5000):   "longer than 4096",
		"now " + "close-session":    "write a rule",
		"rule a on C_Sign do hang,": `unknown effect "hang,"`,
	} {
		if _, err := r.conn.Do(r.ctx(), command); !IsRefusal(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", command, err, want)
		}
	}
	if help, err := r.conn.Do(r.ctx(), "help"); err != nil || len(help) < 10 {
		t.Errorf("help: %q, %v", help, err)
	}
	if r.status().Statements != 0 {
		t.Error("a refused command changed something")
	}
}

func TestStatsAndLog(t *testing.T) {
	r := softHSM(t)
	s := r.session()
	key := r.generate(s, macSpec)
	if err := r.conn.ResetStats(r.ctx()); err != nil {
		t.Fatal(err)
	}
	r.add(Rule{ID: "third", On: []string{"C_Sign"}, Every: 3, Do: []Effect{Return(hsm.FunctionFailed)}})
	r.macs(s, key, 10)
	if err := s.Destroy(key + 4711); err == nil {
		t.Error("an object that is not there was destroyed")
	}
	stats, err := r.conn.Stats(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := stats["C_Sign"], (Calls{Calls: 10, Failed: 3, Altered: 3}); got != want {
		t.Errorf("C_Sign %+v, want %+v", got, want)
	}
	if got, want := stats["C_SignInit"], (Calls{Calls: 10}); got != want {
		t.Errorf("C_SignInit %+v, want %+v", got, want)
	}
	if got := stats["C_GetAttributeValue"]; got.Failed != 1 || got.Altered != 0 {
		t.Errorf("C_GetAttributeValue %+v, want one failure: the token's own, which is no alteration", got)
	}
	log, err := r.conn.Log(r.ctx(), 3)
	if err != nil || len(log) != 3 {
		t.Fatal(log, err)
	}
	for _, l := range log {
		if !strings.Contains(l, " C_Sign slot=") || !strings.HasSuffix(l, "third: return FUNCTION_FAILED") {
			t.Errorf("log: %q", l)
		}
	}
	if st := r.status(); st.Altered != 3 || st.PID != os.Getpid() || !st.Initialized || !strings.Contains(st.Module, "softhsm") {
		t.Errorf("%+v", st)
	}
}

// TestManyClients: a client that says nothing, one that sends half a line, one that sends nonsense and one that does not read
// disturb nobody; more clients than there is room for are told so.
func TestManyClients(t *testing.T) {
	r := softHSM(t)
	path := filepath.Join(r.m.Sockets, fmt.Sprint(os.Getpid(), ".sock"))
	dial := func() *Conn {
		c, err := Dial(r.ctx(), path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	send := func(text string) {
		if _, err := dial().conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	dial()
	send("half a li")
	send("\x00\xFF\n \n\"\nbegin\nbegin\n" + strings.Repeat("x", 10000) + "\nend\n")
	deaf := dial()
	go func() { // until it is hung up
		for {
			if _, err := deaf.conn.Write([]byte(strings.Repeat("help\n", 100))); err != nil {
				return
			}
		}
	}()
	for range 20 {
		if _, err := r.conn.Status(r.ctx()); err != nil {
			t.Fatal(err)
		}
	}
	for i := 0; ; i++ {
		_, err := dial().Status(r.ctx())
		if err != nil {
			if !strings.Contains(err.Error(), "16 clients") || i < 10 {
				t.Errorf("client %d more: %v", i, err)
			}
			break
		}
		if i == 20 {
			t.Error("20 clients more, and all have room")
			break
		}
	}
	if _, err := r.conn.Status(r.ctx()); err != nil {
		t.Error(err)
	}
}
