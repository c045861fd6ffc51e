package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/pool"
)

func memberCommand(out *output, f *adminFlags) *cobra.Command {
	c := group("member", "look at and change the members of a pool")
	pool := c.PersistentFlags().String("pool", "", "the pool (default: the node's default pool; list shows all)")
	c.AddCommand(
		memberList(out, f, pool), memberAdd(out, f, pool),
		memberOrder(out, f, pool, http.MethodPost, "drain", "drain", "take a member out of use when its work is done", true),
		memberOrder(out, f, pool, http.MethodPost, "resume", "resume", "take a drained member into use again", false),
		memberOrder(out, f, pool, http.MethodDelete, "remove", "", "drain a member and forget it; its token stays as it is", true),
		memberOrder(out, f, pool, http.MethodPost, "latch-clear", "clear-latch", "let a latched member log in once more; first put its PIN file right", false),
	)
	return f.add(c)
}

func memberList(out *output, f *adminFlags, poolName *string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the members with what they do", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			path := "/members"
			if *poolName != "" {
				path += "?" + url.Values{"pool": {*poolName}}.Encode()
			}
			var list adminapi.MemberList
			if err := f.order(c, http.MethodGet, path, nil, &list); err != nil {
				return err
			}
			return out.answer(list, func(w io.Writer) {
				row(w, "POOL", "MEMBER", "STATE", "BREAKER", "PID", "TOKEN", "SESSIONS", "BUSY", "QUEUED", "HANDLES", "OPERATIONS", "FAILURES", "RESPAWNS", "LATENCY", "REASON")
				for _, p := range list.Pools {
					for _, m := range p.Members {
						memberRow(w, p.Pool, m)
					}
				}
			})
		},
	}
}

func memberRow(w io.Writer, pool string, m pool.MemberStat) {
	pid := ""
	if m.PID != 0 {
		pid = fmt.Sprint(m.PID)
	}
	row(w, pool, m.Name, m.State, m.Breaker, pid, m.Token, m.Sessions, m.Busy, m.Queued, m.Handles, m.Operations, m.Failures, m.Respawns, m.Latency.Round(time.Microsecond), m.Reason)
}

func memberAdd(out *output, f *adminFlags, poolName *string) *cobra.Command {
	var r lifecycle.MemberRecord
	c := &cobra.Command{
		Use: "add NAME --driver pkcs11 --module LIB --token-label L --pin-file F", Short: "add a member; it joins in the background", Args: exactly("NAME"),
		Long: "add names a token to the node, which opens it: all paths are paths on the node's machine.",
		RunE: func(c *cobra.Command, args []string) error {
			r.Name, r.Pool = args[0], *poolName
			for _, p := range []*string{&r.Module, &r.TokenDir, &r.PINFile} {
				if *p != "" {
					abs, err := filepath.Abs(*p)
					if err != nil {
						return err
					}
					*p = abs
				}
			}
			if err := r.Check(); err != nil {
				return usageError{err}
			}
			var m pool.MemberStat
			if err := f.order(c, http.MethodPost, "/members", r, &m); err != nil {
				return err
			}
			return out.answer(m, func(w io.Writer) { row(w, "member", m.Name, "is", m.State) })
		},
	}
	p := c.Flags()
	p.StringVar(&r.URI, "uri", "", "names module, token and PIN file at once, as pkcs11:token=L?module-path=LIB&pin-source=file:F (RFC 7512)")
	p.StringVar(&r.Driver, "driver", "pkcs11", "pkcs11 or soft")
	p.StringVar(&r.Module, "module", "", "path of the PKCS#11 library")
	p.StringVar(&r.TokenLabel, "token-label", "", "the token's label")
	p.StringVar(&r.TokenSerial, "token-serial", "", "the token's serial number")
	p.StringVar(&r.TokenDir, "token-dir", "", "directory of an embedded token")
	p.StringVar(&r.PINFile, "pin-file", "", "file with the user PIN")
	p.StringVar(&r.InitArgs, "init-args", "", "what the library wants at C_Initialize (NSS)")
	p.StringArrayVar(&r.Env, "env", nil, "NAME=value for the member's worker; repeat for more; never a secret")
	p.StringVar(&r.Isolation, "isolation", "worker", "worker (a process of its own) or none")
	p.IntVar(&r.Sessions, "sessions", 0, "operations at once (default: after the token)")
	p.IntVar(&r.Queue, "queue", 0, "operations that may wait (default: 64 for each session)")
	p.Int64Var(&r.MaxMemory, "max-memory", 0, "bytes of memory at which the member's worker is replaced while another member serves (default: no limit)")
	p.IntVar(&r.Handles, "handles", 0, "loaded keys that are kept (default: after the token)")
	return c
}

// memberOrder is a command to one member.
func memberOrder(out *output, f *adminFlags, poolName *string, method, name, verb, short string, forcible bool) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: name + " NAME", Short: short, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			path, q := at("members", args[0]), url.Values{}
			if verb != "" {
				path += at(verb)
			}
			if *poolName != "" {
				q.Set("pool", *poolName)
			}
			if force {
				q.Set("force", "true")
			}
			if len(q) > 0 {
				path += "?" + q.Encode()
			}
			m := pool.MemberStat{Name: args[0], State: "removed"}
			if err := f.order(c, method, path, nil, &m); err != nil {
				return err
			}
			return out.answer(m, func(w io.Writer) { row(w, "member", m.Name, "is", m.State) })
		},
	}
	if forcible {
		c.Flags().BoolVar(&force, "force", false, "do it though nobody is left to serve")
	}
	return c
}
