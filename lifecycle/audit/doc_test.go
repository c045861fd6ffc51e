package audit

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The page tells of every action, detail and check, as they are.
func TestThePageIsComplete(t *testing.T) {
	b, err := os.ReadFile("../../docs/design/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	quoted := func(names []string) string {
		if len(names) == 0 {
			return ""
		}
		return "`" + strings.Join(names, "` `") + "`"
	}
	for a, r := range rules {
		row := fmt.Sprintf("| `%s` | %s | %s | %s |", a, r.kind, quoted(r.must), quoted(r.may))
		if r.kind == "" {
			row = fmt.Sprintf("| `%s` | any with a state | as its state, below |", a)
		}
		if !strings.Contains(page, row) {
			t.Errorf("docs/design/audit.md has no row %s", row)
		}
	}
	for k, r := range shapes {
		if row := fmt.Sprintf("| %s | %s | %s |", k, quoted(r.must), quoted(r.may)); !strings.Contains(page, row) {
			t.Errorf("docs/design/audit.md has no row %s", row)
		}
	}
	for c, words := range meanings {
		if !strings.Contains(page, "`"+string(c)+"`") || words == "" {
			t.Errorf("docs/design/audit.md does not name the check %s", c)
		}
	}
}
