package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"keyway/hsm/pkcs11"
	"keyway/lifecycle"
)

func serveCommand(out *output) *cobra.Command {
	var file string
	var check bool
	c := &cobra.Command{
		Use: "serve --config keyway.yaml [--check]", Short: "run a node after a configuration file", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if file == "" {
				return usagef("--config: name the configuration file")
			}
			cfg, err := readConfig(file)
			if err != nil {
				return usageError{err}
			}
			if check {
				text, tree, err := cfg.effective()
				if err != nil {
					return err
				}
				return out.answer(tree, func(w io.Writer) { _, err = w.Write(text) })
			}
			if err := cfg.onThisMachine(); err != nil {
				return usageError{err}
			}
			log := newLog(out.notes, cfg.Telemetry)
			ctx, stop := untilSignal(c.Context())
			defer stop()
			l, err := bind(cfg)
			if err != nil {
				return err
			}
			n, err := openNode(ctx, cfg, l, log)
			if err != nil {
				return err
			}
			return n.serve(ctx)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the configuration file (YAML)")
	c.Flags().BoolVar(&check, "check", false, "print the effective configuration, redacted, and end")
	return c
}

// onThisMachine names every PKCS#11 library of the configuration that is not on this machine, with what to install, and
// every file with a PIN or password that everybody may read. A PIN file that is not there yet is waited for.
func (c *config) onThisMachine() error {
	var errs []error
	look := func(r lifecycle.MemberRecord) {
		if st, err := os.Stat(r.PINFile); err == nil && st.Mode().Perm()&0o007 != 0 {
			errs = append(errs, fmt.Errorf("member %s: PIN file %s may be read by everybody: chmod 600 it and change the PIN", r.Name, r.PINFile))
		}
		if r.Driver != "pkcs11" {
			return
		}
		if _, err := os.Stat(r.Module); !errors.Is(err, fs.ErrNotExist) {
			return
		}
		advice := "install the vendor's client software, or correct module"
		for _, kind := range []string{"softhsm", "nss"} {
			if !strings.Contains(r.Module, map[string]string{"softhsm": "softhsm", "nss": "softokn"}[kind]) {
				continue
			}
			if p, err := pkcs11.FindModule(kind); err != nil {
				advice = err.Error()
			} else {
				advice = "it is at " + p + " here"
			}
		}
		errs = append(errs, fmt.Errorf("member %s: there is no PKCS#11 library %s: %s", r.Name, r.Module, advice))
	}
	if p := c.Store.Postgres; p != nil {
		if st, err := os.Stat(p.PasswordFile); err == nil && st.Mode().Perm()&0o007 != 0 {
			errs = append(errs, fmt.Errorf("store: password file %s may be read by everybody: chmod 600 it and change the password", p.PasswordFile))
		}
	}
	if c.Custody != nil {
		look(c.Custody.MemberRecord)
	}
	for _, p := range c.Pools {
		for _, m := range p.Members {
			look(m)
		}
	}
	return errors.Join(errs...)
}

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The second one ends the process at once; the
// workers see that and end too.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	ended := make(chan struct{})
	go func() {
		defer cancel()
		select {
		case <-c:
			cancel()
		case <-ended:
			return
		}
		select {
		case <-c:
			os.Exit(exitFailed)
		case <-ended:
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		close(ended)
	}
}
