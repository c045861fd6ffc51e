//go:build linux && cgo

package faulthsm

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestReadme: the statements and devices that operators copy from README.md are understood, and every effect, condition and verb is in it.
func TestReadme(t *testing.T) {
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(b)
	l := newLint(t, lintPath(t))
	statements := regexp.MustCompile("(?m)(?:^    |`)((?:rule [a-z]+ on|token absent|pin tries|clock [a-z]+|device [a-z]) ?[^`\n\"|]*)").FindAllStringSubmatch(readme, -1)
	n := 0
	for _, s := range statements {
		text := strings.TrimSpace(s[1])
		if text == "token absent" || strings.Contains(text, " ") {
			n++
			if text == "pin tries" { // named, not said
				continue
			}
			if answer := l.ask(text); !strings.HasPrefix(answer, "ok\n") {
				t.Errorf("%q: %s", text, answer)
			}
		}
	}
	if n < 18 {
		t.Errorf("only %d statements were found: does the test still see them?", n)
	}
	for _, d := range deviceNames(t) {
		if !strings.Contains(readme, "| `"+d+"` |") {
			t.Errorf("device %s is not in README.md", d)
		}
	}
	for _, wrong := range []string{"rule a on C_Sign do x", "rule a on C_Sign x"} {
		_, list, _ := strings.Cut(l.ask(wrong), "write one of ")
		list, _, _ = strings.Cut(list, ", or ")
		for _, w := range strings.Split(list, ", ") {
			if !strings.Contains(readme, "\""+w+"\"") {
				t.Errorf("%q is not in README.md's grammar", w)
			}
		}
	}
}
