package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keyway/lifecycle/adminapi"
	"keyway/pool"
)

func memberCommand(out *output, f *adminFlags) *cobra.Command {
	c := group("member", "look at and change the members of a pool")
	pool := c.PersistentFlags().String("pool", "", "the pool (default: the node's default pool; list shows all)")
	c.AddCommand(
		memberList(out, f, pool), memberAdd(out, f, pool),
		memberDrain(out, f, pool), memberResume(out, f, pool), memberRemove(out, f, pool), memberLatchClear(out, f, pool),
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
	m := &memberFlags{adminFlags: f, pool: poolName}
	var r adminapi.MemberRequest
	var force bool
	c := &cobra.Command{
		Use: "add NAME --driver pkcs11 --module LIB --token-label L --pin-file F", Short: "try a token and add it as a member", Args: exactly("NAME"),
		Long: "add lets the node open a token, so all paths are paths on the node's machine. The token is tried first: a library or token that is not there, a PIN\n" +
			"that is refused, a token that is a member already or holds another pool's KEK, mechanisms that are missing and a clock that is wrong are told, and\n" +
			"nothing is changed. Then the member is stored and joins. A member that is there with the same settings is fine.",
		RunE: func(c *cobra.Command, args []string) error {
			r.Name, r.Pool = args[0], *poolName
			for _, p := range []*string{&r.Module, &r.TokenDir, &r.PINFile, &r.Profile} {
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
			path := "/members"
			if force {
				path += "?force=true"
			}
			return carriedOut(out, m, c, memberOrder{args[0], func(ctx context.Context, client *adminClient) (a adminapi.MemberAnswer, err error) {
				err = client.do(ctx, http.MethodPost, path, r, &a)
				return a, err
			}, servesOrRests})
		},
	}
	m.add(c)
	p := c.Flags()
	p.StringVar(&r.URI, "uri", "", "names module, token and PIN file at once, as pkcs11:token=L?module-path=LIB&pin-source=file:F (RFC 7512)")
	p.StringVar(&r.Driver, "driver", "pkcs11", "pkcs11 or soft")
	p.StringVar(&r.Module, "module", "", "path of the PKCS#11 library")
	p.StringVar(&r.TokenLabel, "token-label", "", "the token's label")
	p.StringVar(&r.TokenSerial, "token-serial", "", "the token's serial number")
	p.StringVar(&r.TokenDir, "token-dir", "", "directory of an embedded token")
	p.StringVar(&r.PINFile, "pin-file", "", "file with the user PIN")
	p.StringVar(&r.Profile, "profile", "", "file of a vendor profile to use instead of the program's own")
	p.StringVar(&r.InitArgs, "init-args", "", "what the library wants at C_Initialize (NSS)")
	p.StringArrayVar(&r.Env, "env", nil, "NAME=value for the member's worker; repeat for more; never a secret")
	p.StringVar(&r.Isolation, "isolation", "worker", "worker (a process of its own) or none")
	p.IntVar(&r.Sessions, "sessions", 0, "operations at once (default: after the token)")
	p.IntVar(&r.Queue, "queue", 0, "operations that may wait (default: 64 for each session)")
	p.Int64Var(&r.MaxMemory, "max-memory", 0, "bytes of memory at which the member's worker is replaced while another member serves (default: no limit)")
	p.IntVar(&r.Handles, "handles", 0, "loaded keys that are kept (default: after the token)")
	p.BoolVar(&r.Partial, "partial", false, "add it though it lacks mechanisms that keys of the pool need; other members do those")
	p.BoolVar(&force, "force", false, "you vouch for the PIN: try it though a wrong one was tried before")
	return c
}

// carriedOut carries an order out and answers with what became of the member.
func carriedOut(out *output, m *memberFlags, c *cobra.Command, o memberOrder) error {
	a, err := m.carryOut(c, o)
	if err != nil {
		return err
	}
	return out.answer(a, func(w io.Writer) { row(w, "member", a.Name, "is", a.State) })
}

// memberCall is an order that is one call, with the member's name as its argument.
func memberCall(out *output, m *memberFlags, use, short, method, verb string, query func(url.Values), done func(pool.MemberStat) (bool, error)) *cobra.Command {
	c := &cobra.Command{
		Use: use + " NAME", Short: short, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			q, parts := url.Values{}, args
			if verb != "" {
				parts = append(parts, verb)
			}
			query(q)
			return carriedOut(out, m, c, memberOrder{args[0], func(ctx context.Context, client *adminClient) (adminapi.MemberAnswer, error) {
				a := adminapi.MemberAnswer{MemberStat: pool.MemberStat{Name: args[0], State: removed}}
				err := client.do(ctx, method, m.path(q, parts...), nil, &a)
				return a, err
			}, done})
		},
	}
	m.add(c)
	return c
}

func memberDrain(out *output, f *adminFlags, poolName *string) *cobra.Command {
	m := &memberFlags{adminFlags: f, pool: poolName}
	var force bool
	c := memberCall(out, m, "drain", "take a member out of use when its work is done", http.MethodPost, "drain", m.leaving(&force), being(pool.Drained))
	c.Flags().BoolVar(&force, "force", false, "do it though nobody is left to serve")
	return c
}

func memberRemove(out *output, f *adminFlags, poolName *string) *cobra.Command {
	m := &memberFlags{adminFlags: f, pool: poolName}
	var force, forget bool
	leaving := m.leaving(&force)
	c := memberCall(out, m, "remove", "drain a member and forget it; its token stays as it is", http.MethodDelete, "", func(q url.Values) {
		leaving(q)
		if forget {
			q.Set("forget_token", "true")
		}
	}, being(removed))
	c.Flags().BoolVar(&force, "force", false, "do it though nobody is left to serve")
	c.Flags().BoolVar(&forget, "forget-token", false, "forget its Root KEK too, so that another token, or the same one emptied, can have its name")
	c.Long = "remove drains a member and forgets it. Its token keeps everything that is on it, and may be added again under the same name.\n\n" +
		"With --forget-token the member's Root KEK is destroyed on the custody token and forgotten in the store, so that a token that replaces it can be added under\n" +
		"the name; this is also for a member that is gone already. The old token is not touched: one that still exists can open the pool's keys until it is\n" +
		"emptied or destroyed."
	return c
}

// leaving is the query of an order by which a member leaves.
func (f *memberFlags) leaving(force *bool) func(url.Values) {
	return func(q url.Values) {
		if *force {
			q.Set("force", "true")
		}
		if f.noWait {
			q.Set("wait", "false")
		}
	}
}

func memberResume(out *output, f *adminFlags, poolName *string) *cobra.Command {
	m := &memberFlags{adminFlags: f, pool: poolName}
	return memberCall(out, m, "resume", "take a drained member into use again", http.MethodPost, "resume", func(url.Values) {}, serves)
}

func memberLatchClear(out *output, f *adminFlags, poolName *string) *cobra.Command {
	m := &memberFlags{adminFlags: f, pool: poolName}
	return memberCall(out, m, "latch-clear", "let a latched member log in once more; first put its PIN file right", http.MethodPost, "clear-latch", func(url.Values) {}, servesOrRests)
}
