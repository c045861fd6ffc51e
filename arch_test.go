package keyway

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// rooms lists the packages from the lowest to the highest; a package imports
// only from lines above its own, or what its own line allows beside that.
var rooms = [][]string{
	{"keyway/lifecycle/key"},
	{"keyway/lifecycle/audit"},
	{"keyway/hsm"},
	{"keyway/hsm/pkcs11", "keyway/hsm/soft", "keyway/hsm/worker", "keyway/hsm/hsmtest"},
	{"keyway/pool"},
	{"keyway/gateway", "keyway/lifecycle"},
	{"keyway/lifecycle/storetest"},
	{"keyway/lifecycle/sqlstore", "keyway/lifecycle/adminapi"},
	{"keyway/cmd/keyway", "keyway/cmd/auditverify", "keyway/loadtest"},
}

// owners names who alone may import a module (a prefix of import paths).
var owners = map[string][]string{
	"github.com/valyala/fasthttp":         {"keyway/gateway", "keyway/loadtest"},
	"modernc.org/sqlite":                  {"keyway/lifecycle/sqlstore"},
	"github.com/jackc/pgx":                {"keyway/lifecycle/sqlstore"},
	"github.com/miekg/pkcs11":             {"keyway/hsm/pkcs11"},
	"github.com/dgraph-io/ristretto":      {"keyway/gateway"},
	"github.com/sony/gobreaker":           {"keyway/pool"},
	"go.opentelemetry.io/otel/sdk":        {"keyway/cmd"},
	"go.opentelemetry.io/otel/exporters":  {"keyway/cmd"},
	"github.com/prometheus/client_golang": {"keyway/cmd"},
	"github.com/spf13/cobra":              {"keyway/cmd"},
	"golang.org/x/mod":                    {"keyway/lifecycle/audit", "keyway/cmd/auditverify"},
}

type pkg struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
	Dir        string
}

// goList runs go list. It sees the files that need cgo even where these tests run without it.
func goList(args ...string) ([]byte, error) {
	c := exec.Command("go", append([]string{"list"}, args...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	return c.Output()
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := goList("-json=ImportPath,Imports,GoFiles,Dir", "./...")
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	d := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// floor returns the line of rooms a package stands on, -1 for none.
func floor(path string) int {
	best, at := -1, -1
	for i, row := range rooms {
		for _, r := range row {
			if (path == r || strings.HasPrefix(path, r+"/")) && len(r) > best {
				best, at = len(r), i
			}
		}
	}
	return at
}

func TestArchitectureImportsGoDown(t *testing.T) {
	n := 0
	for _, p := range packages(t) {
		if p.ImportPath == "keyway" {
			continue
		}
		from := floor(p.ImportPath)
		if from < 0 {
			t.Errorf("%s is in no room: give it a line in rooms", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, "keyway/") {
				continue
			}
			n++
			if to := floor(i); to > from || to == from && i != p.ImportPath && !(from == len(rooms)-1) {
				t.Errorf("%s imports %s, which is not below it", p.ImportPath, i)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d imports were looked at: does the test still see the code?", n)
	}
}

func TestArchitectureModulesHaveOwners(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		for _, i := range p.Imports {
			for module, allowed := range owners {
				if i != module && !strings.HasPrefix(i, module+"/") {
					continue
				}
				seen[module] = true
				ok := false
				for _, a := range allowed {
					ok = ok || p.ImportPath == a || strings.HasPrefix(p.ImportPath, a+"/")
				}
				if !ok {
					t.Errorf("%s imports %s, which belongs to %s", p.ImportPath, i, strings.Join(allowed, ", "))
				}
			}
		}
	}
	for module := range owners {
		if !seen[module] {
			t.Errorf("nobody imports %s any more: take it out of the table", module)
		}
	}
}

// The auditor's program is to be read and built by others: of ours it holds the log and the vocabulary only, and nothing that
// opens a connection, a database or a library.
func TestArchitectureAuditverifyIsSmall(t *testing.T) {
	out, err := goList("-deps", "./cmd/auditverify")
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 20 {
		t.Fatalf("only %d packages were looked at", len(deps))
	}
	for _, d := range deps {
		ours := strings.HasPrefix(d, "keyway/") && d != "keyway/cmd/auditverify" && d != "keyway/lifecycle/audit" && d != "keyway/lifecycle/key"
		module := strings.Contains(strings.SplitN(d, "/", 2)[0], ".") && !strings.HasPrefix(d, "golang.org/x/mod/sumdb/")
		if ours || module || d == "net/http" || d == "database/sql" || d == "plugin" || d == "os/exec" {
			t.Errorf("auditverify holds %s", d)
		}
	}
}

func TestArchitectureOneFileHoldsABreakerAndACache(t *testing.T) {
	for what, want := range map[string]string{"github.com/sony/gobreaker": "pool/breaker.go", "github.com/dgraph-io/ristretto": "gateway/cache.go"} {
		out, err := exec.Command("grep", "-rl", "--include=*.go", "\""+what, "pool", "gateway").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range strings.Fields(string(out)) {
			if filepath.ToSlash(f) != want {
				t.Errorf("%s imports %s; only %s may", f, what, want)
			}
		}
	}
}
