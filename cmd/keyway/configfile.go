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
	c := newConfig()
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(c)
	var root yaml.Node
	_ = yaml.Unmarshal(b, &root) // its errors are the same
	var types *yaml.TypeError
	switch {
	case err == nil || errors.Is(err, io.EOF): // an empty file lacks what Validate will name
	case errors.As(err, &types):
		for _, s := range types.Errors {
			fails.wrong = append(fails.wrong, plain(&root, s))
		}
	default:
		return nil, &configError{file, []*wrongField{plain(&root, strings.TrimPrefix(err.Error(), "yaml: "))}}
	}
	var second yaml.Node
	if d.Decode(&second) == nil {
		fails.wrong = append(fails.wrong, &wrongField{"syntax", second.Line, errors.New("a second document begins here: put everything into one")})
	}
	fails.wrong = append(fails.wrong, zeros("", &root)...)
	c.setDefaults()
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	c.resolve(dir)
	if err := c.Validate(); err != nil {
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			w := e.(*wrongField)
			w.line = lineOf(&root, w.path)
			fails.wrong = append(fails.wrong, w)
		}
	}
	if len(fails.wrong) == 0 {
		return c, nil
	}
	slices.SortStableFunc(fails.wrong, func(a, b *wrongField) int { return cmp.Compare(a.line, b.line) })
	return nil, fails
}

// notZero are the settings for which 0 would silently become the default.
var notZero = map[string]bool{
	"op_timeout": true, "canary_every": true, "retry_ratio": true, "attempts": true, "slow_start": true, "bulk_timeout": true, "join_timeout": true,
	"max_body": true, "read_timeout": true, "write_timeout": true, "idle_timeout": true, "max_connections": true,
	"cache_keys": true, "batch_width": true, "max_stale": true, "shutdown": true,
}

var zero = regexp.MustCompile(`^[-+]?0*(\.0*)?(ns|us|µs|ms|s|m|h)?$`)

// zeros finds the settings that were set to a 0 which they cannot have.
func zeros(path string, n *yaml.Node) (out []*wrongField) {
	switch n.Kind {
	case yaml.DocumentNode:
		for _, c := range n.Content {
			out = append(out, zeros(path, c)...)
		}
	case yaml.SequenceNode:
		for i, c := range n.Content {
			out = append(out, zeros(fmt.Sprintf("%s[%d]", path, i), c)...)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, v := n.Content[i].Value, n.Content[i+1]
			at := strings.TrimPrefix(path+"."+name, ".")
			if v.Kind == yaml.ScalarNode && notZero[name] && v.Tag != "!!null" && v.Value != "" && zero.MatchString(v.Value) {
				out = append(out, &wrongField{at, v.Line, errors.New("0 is not possible here: leave it out for the default")})
			}
			out = append(out, zeros(at, v)...)
		}
	}
	return out
}

// resolve reads relative paths as from dir.
func (c *config) resolve(dir string) {
	absolute(dir, &c.Store.Path, &c.Audit.KeyFile)
	if c.Store.Postgres != nil {
		absolute(dir, &c.Store.Postgres.PasswordFile)
	}
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
			absolute(dir, &m.Module, &m.TokenDir, &m.PINFile, &m.Profile)
		}
	}
}

var (
	yamlLine  = regexp.MustCompile(`^line (\d+): (.*)$`)
	yamlField = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
	yamlType  = regexp.MustCompile(`^cannot unmarshal (!!\w+) .*into (\S+)$`)
)

// plain turns one of the YAML decoder's sentences, which name Go types and repeat values, into one of ours. A value in the
// wrong place may be a secret, so it is not repeated.
func plain(root *yaml.Node, s string) *wrongField {
	w := &wrongField{path: "syntax"}
	s = strings.ReplaceAll(s, "\n", " ") // a value with lines in it
	if m := yamlLine.FindStringSubmatch(s); m != nil {
		w.line, _ = strconv.Atoi(m[1])
		s = m[2]
	}
	if m := yamlField.FindStringSubmatch(s); m != nil {
		w.path, s = m[1], "there is no such setting here"
	} else if m := yamlType.FindStringSubmatch(s); m != nil {
		w.path, s = pathAt("", root, w.line, m[1]), "use "+kindOf(m[2])
	}
	w.err = errors.New(s)
	return w
}

// kindOf tells what a setting of a Go type looks like.
func kindOf(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration, for instance 10s or 15m"
	case goType == "bool":
		return "true or false"
	case goType == "string" || strings.HasSuffix(goType, ".digest"):
		return "a text"
	case goType == "float64":
		return "a number"
	case strings.HasPrefix(goType, "int"):
		return "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "a section with settings of its own"
}

// pathAt finds what stands on a line: the path of the first value there that has the tag.
func pathAt(path string, n *yaml.Node, line int, tag string) string {
	for i, c := range n.Content {
		at := path
		switch n.Kind {
		case yaml.SequenceNode:
			at = fmt.Sprintf("%s[%d]", path, i)
		case yaml.MappingNode:
			if i%2 == 0 {
				continue
			}
			at = strings.TrimPrefix(path+"."+n.Content[i-1].Value, ".")
		}
		if found := pathAt(at, c, line, tag); found != "" {
			return found
		}
		if c.Line == line && c.ShortTag() == tag && n.Kind != yaml.DocumentNode {
			return at
		}
	}
	return ""
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

// secretive matches the names of variables that look as if they held a secret in spite of what the documentation asks for.
var secretive = regexp.MustCompile(`(?i)pin|pass|pwd|secret|token|credential|key`)

// effective returns the configuration as it is in force, with everything secret redacted: as YAML, or as what YAML says.
func (c *config) effective() (text []byte, tree map[string]any, err error) {
	shown := *c
	if c.Custody != nil {
		custody := *c.Custody
		custody.Env = redactEnv(custody.Env)
		shown.Custody = &custody
	}
	shown.Pools = slices.Clone(c.Pools)
	for i := range shown.Pools {
		p := &shown.Pools[i]
		p.Members = slices.Clone(p.Members)
		for j := range p.Members {
			p.Members[j].Env = redactEnv(p.Members[j].Env)
		}
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&shown), e.Close()); err != nil {
		return nil, nil, err
	}
	return b.Bytes(), tree, yaml.Unmarshal(b.Bytes(), &tree)
}

// redactEnv returns a copy of an environment without the values that look secret.
func redactEnv(env []string) []string {
	out := slices.Clone(env)
	for i, v := range out {
		if name, _, ok := strings.Cut(v, "="); ok && secretive.MatchString(name) {
			out[i] = name + "=[redacted]"
		}
	}
	return out
}
