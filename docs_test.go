package keyway

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	mdLink   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	mdTest   = regexp.MustCompile("`((?:Test|Fuzz)[A-Z][A-Za-z0-9]+)`")
	mdHead   = regexp.MustCompile(`(?m)^#+ (.+)$`)
	goTest   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9_]+)\(`)
	notWords = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// files returns the repository's own files with an extension.
func files(t *testing.T, ext string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if err == nil && filepath.Ext(p) == ext {
			out = append(out, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// anchor is a heading as links name it.
func anchor(heading string) string {
	return strings.ReplaceAll(notWords.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// coming is a page that others point at already and that comes with what it tells about.
const coming = "docs/performance.md"

// Links between pages and into the code lead somewhere, and the tests that pages name exist.
func TestDocsPointAtWhatIsThere(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range files(t, ".go") {
		for _, m := range goTest.FindAllStringSubmatch(read(t, f), -1) {
			tests[m[1]] = true
		}
	}
	pages := files(t, ".md")
	links := 0
	for _, page := range pages {
		text := read(t, page)
		for _, m := range mdTest.FindAllStringSubmatch(text, -1) {
			if !tests[m[1]] {
				t.Errorf("%s names %s, and there is no such test", page, m[1])
			}
		}
		for _, m := range mdLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			links++
			path, part, _ := strings.Cut(m[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(target); err != nil && filepath.ToSlash(target) == coming {
				continue
			} else if err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if part == "" {
				continue
			}
			found := false
			for _, h := range mdHead.FindAllStringSubmatch(read(t, target), -1) {
				found = found || anchor(h[1]) == part
			}
			if !found {
				t.Errorf("%s links to %s, which has no such heading", page, m[1])
			}
		}
	}
	// Each promise of the pool names the test that proves it.
	_, proofs, _ := strings.Cut(read(t, "docs/design/pool.md"), "\n## How each promise is proved\n")
	proofs, _, _ = strings.Cut(proofs, "\n## ")
	promises := 0
	for _, row := range strings.Split(proofs, "\n") {
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| Promise |") || strings.HasPrefix(row, "| **") {
			continue
		}
		promises++
		cells := strings.Split(row, "|")
		if len(cells) != 5 || !mdTest.MatchString(cells[2]) || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("docs/design/pool.md does not say what proves this, and how that was seen to fail: %s", row)
		}
	}
	if promises < 60 {
		t.Errorf("docs/design/pool.md proves %d promises, there are more", promises)
	}
	// Alerts name their runbooks.
	for _, m := range regexp.MustCompile(`runbook: docs/ops/runbooks\.md#(\S+)`).FindAllStringSubmatch(read(t, "deploy/prometheus/keyway.rules.yml"), -1) {
		links++
		found := false
		for _, h := range mdHead.FindAllStringSubmatch(read(t, "docs/ops/runbooks.md"), -1) {
			found = found || anchor(h[1]) == m[1]
		}
		if !found {
			t.Errorf("an alert names the runbook %q, and docs/ops/runbooks.md has no such heading", m[1])
		}
	}
	if len(pages) < 20 || links < 50 {
		t.Errorf("only %d pages and %d links were looked at: does the test still see them?", len(pages), links)
	}
}
