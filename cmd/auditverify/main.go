// Command auditverify checks an exported audit log from nothing but the file, the public keys its user trusts and, best, a
// checkpoint they kept from before. It needs no server, no configuration and no network.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"keyway/lifecycle/audit"
)

// Exit codes.
const (
	exitVerified = 0
	exitFailed   = 1 // the bundle is not what it should be
	exitNothing  = 2 // nothing could be verified: usage, or a file that cannot be read
)

const usage = `auditverify checks an exported Keyway audit log.

  auditverify -trust KEY [-require KEY] [-earlier FILE] [more flags] BUNDLE

KEY is a verifier key (name+hash+key) or a file with one on each line. BUNDLE may be compressed with gzip; - is standard input.
Exit code: 0 verified, 1 not verified, 2 nothing could be verified.

`

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// keyList collects keys from flags.
type keyList []note.Verifier

func (k *keyList) String() string { return "" }

// Set takes a key, or a file of keys.
func (k *keyList) Set(s string) error {
	text := s
	if strings.Count(s, "+") < 2 || fileExists(s) {
		b, err := os.ReadFile(s)
		if err != nil {
			return err
		}
		text = string(b)
	}
	v, err := audit.ParseVerifiers(text)
	if err != nil {
		return err
	}
	if len(v) == 0 {
		return fmt.Errorf("%s holds no key", s)
	}
	*k = append(*k, v...)
	return nil
}

func fileExists(name string) bool { _, err := os.Stat(name); return err == nil }

// command is what the flags say.
type command struct {
	options audit.Options
	bundle  string
	json    bool
	list    bool
	keep    string
}

// parse reads the command line. The error has been told already.
func parse(args []string, stderr io.Writer) (*command, error) {
	c := &command{}
	fs := flag.NewFlagSet("auditverify", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { fmt.Fprint(stderr, usage); fs.PrintDefaults() }
	var trust, require keyList
	var earlier, earlierState string
	fs.Var(&trust, "trust", "a `key` whose signatures count; may be given several times")
	fs.Var(&require, "require", "a `key` that must have signed the last checkpoint; may be given several times")
	fs.StringVar(&earlier, "earlier", "", "a `file` with the checkpoint you kept from the last time")
	fs.StringVar(&earlierState, "earlier-state", "", "the state `digest` of the report on the entries before, for a partial export")
	fs.IntVar(&c.options.MinApprovals, "min-approvals", 0, "how many approvals every executed plan needs, whatever it says itself")
	fs.DurationVar(&c.options.Tolerance, "tolerance", 5*time.Second, "how far clocks may go back without a notice")
	fs.DurationVar(&c.options.MaxAge, "max-age", 0, "how old a witness's signature of the last checkpoint may be; 0 for any age")
	fs.BoolVar(&c.json, "json", false, "write the report as JSON")
	fs.BoolVar(&c.list, "list", false, "write a line for each entry before the report")
	fs.StringVar(&c.keep, "keep", "", "write the last checkpoint to this `file` when all is verified, to be given as -earlier the next time")
	err := fs.Parse(args)
	if err != nil {
		return nil, err
	}
	wrong := func(err error) (*command, error) {
		fmt.Fprintln(stderr, "auditverify:", err)
		return nil, err
	}
	if fs.NArg() != 1 {
		return wrong(errors.New("name one bundle; -h tells how"))
	}
	if c.json && c.list {
		return wrong(errors.New("-json and -list do not go together: the report is to be one JSON document"))
	}
	c.bundle = fs.Arg(0)
	c.options.Trusted, c.options.Required, c.options.Now = trust, require, time.Now()
	if earlier != "" {
		if c.options.Earlier, err = os.ReadFile(earlier); err != nil {
			return wrong(err)
		}
	}
	if earlierState != "" {
		if c.options.EarlierState, err = audit.ParseHash(earlierState); err != nil {
			return wrong(fmt.Errorf("-earlier-state: %w", err))
		}
	}
	return c, nil
}

// run runs one command line and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	if err != nil {
		return exitNothing
	}
	in := stdin
	if c.bundle != "-" {
		f, err := os.Open(c.bundle)
		if err != nil {
			fmt.Fprintln(stderr, "auditverify:", err)
			return exitNothing
		}
		defer f.Close()
		in = f
	}
	if c.list {
		c.options.Each = func(e *audit.Entry) { fmt.Fprintf(stdout, "%d  %s  %s\n", e.Seq, e.Time, e.Summary()) }
	}
	r, err := audit.Verify(in, c.options)
	if err != nil {
		fmt.Fprintln(stderr, "auditverify:", err)
		return exitNothing
	}
	if err := c.write(r, stdout); err != nil {
		fmt.Fprintln(stderr, "auditverify:", err)
		return exitNothing
	}
	if !r.Verified {
		return exitFailed
	}
	return exitVerified
}

// write writes the report, and the checkpoint to keep when there is one worth it.
func (c *command) write(r *audit.Report, stdout io.Writer) error {
	if c.keep != "" && r.Verified {
		if err := os.WriteFile(c.keep, []byte(r.LastCheckpoint.Note), 0o600); err != nil {
			return fmt.Errorf("keeping the checkpoint: %w", err)
		}
	}
	if c.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	if c.list {
		fmt.Fprintln(stdout)
	}
	return r.WriteText(stdout)
}
