package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configError is everything that is wrong with a configuration file.
type configError struct {
	file  string
	wrong []*wrongField
}

// Error has a line for each.
func (e *configError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d thing(s) to put right:", e.file, len(e.wrong))
	for _, w := range e.wrong {
		fmt.Fprintf(&b, "\n  %v", w)
	}
	return b.String()
}

// readConfig reads a configuration file, fills in the defaults and checks it. Unknown fields are errors. The error,
// a *configError where the file could be read at all, names everything that is wrong, by line.
func readConfig(file string) (*config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c, err := parseConfig(b, file)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func parseConfig(b []byte, file string) (*config, error) {
	fails := &configError{file: file}
	var c config
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&c)
	var types *yaml.TypeError
	switch {
	case err == nil || errors.Is(err, io.EOF): // an empty file lacks what Validate will name
	case errors.As(err, &types):
		for _, s := range types.Errors {
			fails.wrong = append(fails.wrong, plain(s))
		}
	default:
		return nil, &configError{file, []*wrongField{plain(strings.TrimPrefix(err.Error(), "yaml: "))}}
	}
	c.setDefaults()
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c.resolve(dir)
	var root yaml.Node
	_ = yaml.Unmarshal(b, &root) // its errors are those above
	if err := c.Validate(); err != nil {
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			w := e.(*wrongField)
			w.line = lineOf(&root, w.path)
			fails.wrong = append(fails.wrong, w)
		}
	}
	if len(fails.wrong) == 0 {
		return &c, nil
	}
	slices.SortStableFunc(fails.wrong, func(a, b *wrongField) int { return cmp.Compare(a.line, b.line) })
	return nil, fails
}

// resolve reads relative paths as from dir.
func (c *config) resolve(dir string) {
	absolute(dir, &c.Store.Path)
	for _, t := range []*tlsConfig{c.TLS, c.Admin.TLS} {
		if t != nil {
			absolute(dir, &t.CertFile, &t.KeyFile, &t.ClientCAFile)
		}
	}
	if c.Custody != nil {
		absolute(dir, &c.Custody.Module, &c.Custody.TokenDir, &c.Custody.PINFile)
	}
	for i := range c.Pools {
		for j := range c.Pools[i].Members {
			m := &c.Pools[i].Members[j]
			absolute(dir, &m.Module, &m.TokenDir, &m.PINFile)
		}
	}
}

var (
	yamlLine  = regexp.MustCompile(`^line (\d+): (.*)$`)
	yamlField = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
)

// plain turns one of the YAML decoder's sentences, which name Go types, into one of ours.
func plain(s string) *wrongField {
	w := &wrongField{path: "syntax"}
	if m := yamlLine.FindStringSubmatch(s); m != nil {
		w.line, _ = strconv.Atoi(m[1])
		s = m[2]
	}
	if m := yamlField.FindStringSubmatch(s); m != nil {
		w.path, s = m[1], "there is no such setting here"
	}
	w.err = errors.New(s)
	return w
}

// lineOf finds the line of a path such as pools[0].name, or of the nearest thing around it that is there. 0 when nothing is.
func lineOf(n *yaml.Node, path string) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	line := 0
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		next := (*yaml.Node)(nil)
		if i, err := strconv.Atoi(step); err == nil && n.Kind == yaml.SequenceNode && i < len(n.Content) {
			next = n.Content[i]
			line = next.Line
		}
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				next, line = n.Content[i+1], n.Content[i].Line
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return line
}

// effective writes the configuration as it is in force, with everything secret redacted.
func (c *config) effective() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}
