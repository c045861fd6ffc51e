// Command keyway is an HTTP gateway to pools of PKCS#11 tokens with a manager
// of the keys on them. Its subcommands run it (serve, dev) and give operators'
// orders to one that runs (key, member, client, grant).
package main

import (
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
	out := newOutput(stdout, stderr, wantsJSON(args))
	root := rootCommand(out)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	if err == nil {
		return exitDone
	}
	out.fail(err)
	var usage usageError
	var conf *configError
	if errors.As(err, &usage) || errors.As(err, &conf) {
		return exitUsage
	}
	return exitFailed
}

// wantsJSON finds --output json before the flags are parsed, so that what is wrong with them is told in JSON too.
func wantsJSON(args []string) bool {
	for i, a := range args {
		if a == "--" {
			break
		}
		if a == "--output=json" || a == "--output" && i+1 < len(args) && args[i+1] == "json" {
			return true
		}
	}
	return false
}

// format is the value of --output. wantsJSON has read it already.
type format string

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("use text or json")
	}
	*f = format(s)
	return nil
}

func rootCommand(out *output) *cobra.Command {
	c := group("keyway", "HTTP crypto gateway in front of PKCS#11 tokens, with a manager of the keys on them")
	c.SilenceErrors, c.SilenceUsage = true, true
	c.CompletionOptions.HiddenDefaultCmd = true
	f := format("text")
	c.PersistentFlags().Var(&f, "output", "how answers are printed: text or json")
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; %s --help tells more", err, c.CommandPath())
	})
	tell := c.Flags().Bool("version", false, "print the version and end")
	commands := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if *tell && len(args) == 0 {
			return out.version()
		}
		return commands(c, args)
	}
	c.SetHelpCommand(helpCommand(c))
	admin := &adminFlags{out: out}
	c.AddCommand(devCommand(out), serveCommand(out), workerCommand(), backupCommand(out), restoreCommand(out), keyCommand(out, admin), memberCommand(out, admin), clientCommand(out, admin), grantCommand(out, admin), auditCommand(out, admin), versionCommand(out))
	return c
}

func versionCommand(out *output) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: none,
		RunE: func(*cobra.Command, []string) error { return out.version() },
	}
}

// helpCommand is cobra's, but for a topic that does not exist, which is an error here.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "tell about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef("there is no command %q; keyway --help lists them", strings.Join(args, " "))
			}
			return c.Help()
		},
	}
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

// version returns the module's version, or where there is none what it was built from.
func version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok || b.Main.Version == "" {
		return "unknown"
	}
	return b.Main.Version
}
