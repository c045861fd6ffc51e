// Command keyway is an HTTP gateway to pools of PKCS#11 tokens with a manager
// of the keys on them. Its subcommands run it (serve, dev) and give operators'
// orders to one that runs (key, member, client, grant).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // also: the configuration is wrong
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// usageError is an error of whoever typed the command.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, a ...any) error { return usageError{fmt.Errorf(format, a...)} }

// run runs one command line and returns its exit code.
func run(args []string, stdout, stderr io.Writer) int {
	out := &output{w: stdout, notes: stderr}
	root := rootCommand(out)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	if out.json {
		_ = json.NewEncoder(stderr).Encode(map[string]string{"error": err.Error()})
	} else {
		fmt.Fprintf(stderr, "keyway: %v\n", err)
	}
	var usage usageError
	var conf *configError
	if errors.As(err, &usage) || errors.As(err, &conf) {
		return exitUsage
	}
	return exitFailed
}

func rootCommand(out *output) *cobra.Command {
	c := group("keyway", "HTTP crypto gateway in front of PKCS#11 tokens, with a manager of the keys on them")
	c.Version = version()
	c.SilenceErrors, c.SilenceUsage = true, true
	c.CompletionOptions.HiddenDefaultCmd = true
	format := c.PersistentFlags().String("output", "text", "how answers are printed: text or json")
	c.PersistentPreRunE = func(*cobra.Command, []string) error {
		out.json = *format == "json"
		if *format != "text" && *format != "json" {
			return usagef("--output: use text or json, not %q", *format)
		}
		return nil
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; %s --help tells more", err, c.CommandPath())
	})
	admin := &adminFlags{out: out}
	c.AddCommand(devCommand(out), serveCommand(out), workerCommand(), keyCommand(out, admin), memberCommand(out, admin), clientCommand(out, admin), grantCommand(out, admin))
	return c
}

// group returns a command that only has subcommands.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				c.SetOut(c.ErrOrStderr())
				_ = c.Help()
				return usagef("say which command")
			}
			hint := ""
			if s := c.SuggestionsFor(args[0]); len(s) > 0 {
				hint = fmt.Sprintf("; did you mean %s?", strings.Join(s, " or "))
			}
			return usagef("there is no command %q%s; %s --help lists them", args[0], hint, c.CommandPath())
		},
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(sub...)
	return c
}

// none accepts no arguments.
func none(c *cobra.Command, args []string) error { return exactly()(c, args) }

// exactly accepts one argument for each name.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return usagef("%s takes %d argument(s), not %d: %s", c.CommandPath(), len(names), len(args), c.UseLine())
	}
}

// version returns the module's version, or the revision it was built from.
func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return b.Main.Version
}
