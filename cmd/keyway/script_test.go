package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"keyway/hsm/pkcs11"
)

// TestScripts runs the program as people do. Beside testscript's own commands there are: code N CMD…, which runs a command that
// must exit with N; json PATH WANT, which looks into the JSON on standard output (jsonerr: on standard error, its last
// line); devdir KIND DIR, a directory in which keyway dev has run; ready DIR, which waits for a keyway dev there; and
// taken VAR, which listens on a port and puts its address into VAR.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(program)+string(os.PathListSeparator)+e.Getenv("PATH"))
			return nil
		},
		Condition: func(c string) (bool, error) {
			if c != onSoftHSM {
				return false, fmt.Errorf("unknown condition %q", c)
			}
			_, err := pkcs11.FindModule("softhsm")
			if err != nil && os.Getenv("REQUIRE_SOFTHSM") == "1" {
				return false, err
			}
			return err == nil && pkcs11.Usable() == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": scriptCode, "json": scriptJSON("stdout"), "jsonerr": scriptJSON("stderr"),
			"devdir": scriptDevDir, "ready": scriptReady, "taken": scriptTaken,
		},
	})
}

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if err != nil || neg {
		ts.Fatalf("usage: code N CMD…")
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func scriptJSON(stream string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		text := strings.TrimSpace(ts.ReadFile(stream))
		if stream == "stderr" {
			text = text[strings.LastIndexByte(text, '\n')+1:]
		}
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			ts.Fatalf("%s is not JSON: %v", stream, err)
		}
		for _, step := range strings.Split(args[0], ".") {
			switch x := v.(type) {
			case map[string]any:
				v = x[step]
			case []any:
				if i, err := strconv.Atoi(step); err == nil && i < len(x) {
					v = x[i]
				} else if step == "len" {
					v = len(x)
				} else {
					v = nil
				}
			default:
				v = nil
			}
		}
		got := fmt.Sprint(v)
		if len(args) == 1 { // it is there
			if (v != nil && got != "") == neg {
				ts.Fatalf("%s is %q", args[0], got)
			}
			return
		}
		if (got == args[1]) == neg {
			ts.Fatalf("%s is %q, want %q", args[0], got, args[1])
		}
	}
}

func scriptDevDir(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(copyTemplate(args[0], ts.MkAbs(args[1])))
}

func scriptReady(ts *testscript.TestScript, _ bool, args []string) {
	file := filepath.Join(ts.MkAbs(args[0]), "dev.json")
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	ts.Fatalf("there is no %s after a minute", file)
}

func scriptTaken(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}
