package pkcs11

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mistakes is everything that is wrong with a profile's file.
type mistakes struct {
	file  string
	lines []mistake
}

type mistake struct {
	line        int
	field, what string
}

func (w *mistakes) add(line int, field, format string, a ...any) {
	w.lines = append(w.lines, mistake{line, field, fmt.Sprintf(format, a...)})
}

// err is one error with a line for each mistake.
func (w *mistakes) err() error {
	slices.SortStableFunc(w.lines, func(a, b mistake) int { return a.line - b.line })
	var b strings.Builder
	fmt.Fprintf(&b, "vendor profile %s: %d thing(s) to put right:", w.file, len(w.lines))
	for _, l := range w.lines {
		fmt.Fprintf(&b, "\n    line %d: %s: %s", l.line, l.field, l.what)
	}
	return fmt.Errorf("%s", b.String())
}

var (
	decoderLine  = regexp.MustCompile(`^line (\d+): (.*)$`)
	decoderField = regexp.MustCompile(`^field (\S+) not found in type `)
	decoderType  = regexp.MustCompile(`^cannot unmarshal !!\w+ (.*) into .*$`)
)

// decoder takes in one of the YAML decoder's sentences, which name Go types.
func (w *mistakes) decoder(s string) {
	line, field := 0, "syntax"
	if m := decoderLine.FindStringSubmatch(s); m != nil {
		line, _ = strconv.Atoi(m[1])
		s = m[2]
	}
	if m := decoderField.FindStringSubmatch(s); m != nil {
		field, s = m[1], "there is no such field here"
	} else if m := decoderType.FindStringSubmatch(s); m != nil {
		field, s = m[1], "this is no value of that field: give a number, a duration such as 30s, true or false, or a list, as the field is"
	}
	w.add(line, field, "%s", s)
}

// figures checks that each figure says what it is, above 0 where it is a number, and how it is known.
func (w *mistakes) figures(root *yaml.Node) {
	for _, section := range []string{"limits", "behaviour"} {
		n := child(root, section)
		for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			name, v := section+"."+n.Content[i].Value, n.Content[i+1]
			for _, part := range []string{"is", "source", "measured"} {
				c := child(v, part)
				switch {
				case c == nil || c.Kind == yaml.ScalarNode && c.Value == "":
					w.add(n.Content[i].Line, name, "say %s: each figure has is, source and measured", part)
				case part == "is" && (strings.HasPrefix(c.Value, "-") || c.ShortTag() == "!!int" && strings.Trim(c.Value, "0") == ""):
					w.add(c.Line, name, "must be above 0; leave it out where nothing is known")
				}
			}
		}
	}
}

// child is the value of a mapping's field, nil when there is none.
func child(n *yaml.Node, name string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// lineOf is the line of the first field of a name, 1 when there is none.
func lineOf(n *yaml.Node, name string) int {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Value == name {
			return c.Line
		}
		if l := lineOf(c, name); l > 1 {
			return l
		}
	}
	return 1
}
