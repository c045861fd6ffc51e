package keyway

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
)

// imported returns the modules whose packages code of ours imports, tests included. What go.mod marks as
// indirect does not matter: the marks are only as right as the last tidying.
func imported(t *testing.T) map[string]string {
	t.Helper()
	// With -test a package that has tests is listed again with what these import.
	out, err := goList("-deps", "-test", "-json=ImportPath,Imports,Module", "./...")
	if err != nil {
		t.Fatal(err)
	}
	type module struct {
		Path string
		Main bool
	}
	of := map[string]*module{}
	by := map[string]string{} // import path → who imports it
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p struct {
			ImportPath string
			Imports    []string
			Module     *module
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		of[p.ImportPath] = p.Module
		if p.Module != nil && p.Module.Main {
			for _, i := range p.Imports {
				by[i] = p.ImportPath
			}
		}
	}
	direct := map[string]string{}
	for path, who := range by {
		if m := of[path]; m != nil && !m.Main {
			direct[m.Path] = who
		}
	}
	return direct
}

func TestDependenciesHaveTheirLine(t *testing.T) {
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|(?: [^|]+ \\|){3}$").FindAllStringSubmatch(string(doc), -1) {
		lines[m[1]] = true
	}
	direct := imported(t)
	if len(direct) < 10 {
		t.Fatalf("only %d modules were seen: does the test still see the code?", len(direct))
	}
	for _, m := range regexp.MustCompile(`(?m)^(?:\t|require )(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		if _, ok := direct[m[1]]; !ok {
			direct[m[1]] = "go.mod"
		}
	}
	for m, who := range direct {
		if !lines[m] {
			t.Errorf("%s (%s) has no line in docs/dependencies.md: why, what it may touch, what could replace it", m, who)
		}
	}
	for m := range lines {
		if !strings.Contains(string(mod), m+" v") {
			t.Errorf("docs/dependencies.md has a line for %s, which go.mod does not know any more", m)
		}
	}
}
