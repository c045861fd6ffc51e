package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/audit"
)

func auditCommand(out *output, f *adminFlags) *cobra.Command {
	return f.add(group("audit", "list, export and verify the audit log", auditList(out, f), auditExport(out, f), auditVerify(out)))
}

func auditList(out *output, f *adminFlags) *cobra.Command {
	var after int64
	var limit int
	var name string
	c := &cobra.Command{
		Use: "list", Short: "list entries of the audit log", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if after < -1 || limit < 0 {
				return usagef("--after: use the number of an entry; --limit: use 0 for all, or more")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			all := adminapi.EntryPage{Entries: []json.RawMessage{}, Next: &after}
			for all.Next != nil && (limit == 0 || len(all.Entries) < limit) {
				want := 1000
				if limit > 0 {
					want = min(want, limit-len(all.Entries))
				}
				var page adminapi.EntryPage
				q := url.Values{"after": {strconv.FormatInt(*all.Next, 10)}, "limit": {strconv.Itoa(want)}, "key": {name}}
				if err := client.do(c.Context(), http.MethodGet, "/audit/entries?"+q.Encode(), nil, &page); err != nil {
					return err
				}
				all.Entries, all.Next = append(all.Entries, page.Entries...), page.Next
			}
			var rows []*audit.Entry
			for _, b := range all.Entries {
				e, err := audit.Decode(b)
				if err != nil {
					return fmt.Errorf("the answer of %s is not what was expected: is it of the same version? %w", client.url, err)
				}
				rows = append(rows, e)
			}
			return out.answer(all, func(w io.Writer) {
				row(w, "ENTRY", "TIME", "WHAT")
				for _, e := range rows {
					row(w, e.Seq, e.Time, e.Summary())
				}
			})
		},
	}
	c.Flags().Int64Var(&after, "after", -1, "begin after this entry")
	c.Flags().IntVar(&limit, "limit", 0, "list at most so many; 0 lists all")
	c.Flags().StringVar(&name, "key", "", "only entries about the key of this name and its versions")
	return c
}

// exported is the answer to an export.
type exported struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

func auditExport(out *output, f *adminFlags) *cobra.Command {
	var from int64
	c := &cobra.Command{
		Use: "export FILE [--from N]", Short: "write the audit log into a file for auditors", Args: exactly("FILE"),
		Long: "export writes the log, the checkpoints of it and the state that follows from it into a new file, which keyway audit verify and auditverify check.\nThat it was exported is said in the log.",
		RunE: func(c *cobra.Command, args []string) error {
			if from < 0 {
				return usagef("--from: use the number of an entry")
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			defer out.waiting(func() string { return "exporting from " + client.url })()
			file, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			n, err := client.export(c.Context(), from, file)
			if err = errors.Join(err, file.Close()); err != nil {
				return errors.Join(err, os.Remove(args[0]))
			}
			return out.answer(exported{args[0], n}, func(w io.Writer) { row(w, fmt.Sprintf("exported %d bytes into %s", n, args[0])) })
		},
	}
	c.Flags().Int64Var(&from, "from", 0, "the first entry; with more than 0 the file holds the state before it too")
	return c
}

// export writes an export to w and returns its length.
func (c *adminClient) export(ctx context.Context, from int64, w io.Writer) (n int64, err error) {
	unbounded := *c.http
	unbounded.Timeout = 0 // a long log takes its time
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/admin/v1/audit/export?from=%d", c.url, from), nil)
	if err != nil {
		return 0, err
	}
	answer, err := c.send(&unbounded, r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if n, err = io.Copy(w, answer.Body); err != nil {
		return n, fmt.Errorf("the export was cut off: %w", err)
	}
	switch said := answer.Trailer.Get(adminapi.ExportTrailer); said {
	case "complete":
		return n, nil
	case "":
		return n, errors.New("the export was cut off: export it again")
	default:
		return n, fmt.Errorf("the export could not be finished: %s", printable(said))
	}
}

// verifyFlags say what a bundle is held against.
type verifyFlags struct {
	trust, require       []string
	earlier, state, keep string
	approvals            int
	maxAge               time.Duration
}

func auditVerify(out *output) *cobra.Command {
	var v verifyFlags
	c := &cobra.Command{
		Use: "verify FILE --trust KEY", Short: "check an exported audit log", Args: exactly("FILE"),
		Long: "verify checks an exported log from nothing but the file and the keys you name, as auditverify does. A KEY is name+hash+key, or a file with one on each line:\na node's is in its audit.key.pub.",
		RunE: func(c *cobra.Command, args []string) error { return v.run(out, args[0]) },
	}
	c.Flags().StringArrayVar(&v.trust, "trust", nil, "a key whose signatures count; may be given several times")
	c.Flags().StringArrayVar(&v.require, "require", nil, "a key that must have signed the last checkpoint; may be given several times")
	c.Flags().StringVar(&v.earlier, "earlier", "", "a file with the checkpoint you kept from the last time")
	c.Flags().StringVar(&v.state, "earlier-state", "", "the state digest of the report on the entries before, for a partial export")
	c.Flags().StringVar(&v.keep, "keep", "", "write the last checkpoint to this file when all is verified, to be given as --earlier the next time")
	c.Flags().IntVar(&v.approvals, "min-approvals", 0, "how many approvals every executed plan needs, whatever it says itself")
	c.Flags().DurationVar(&v.maxAge, "max-age", 0, "how old a witness's signature of the last checkpoint may be; 0 for any age")
	return c
}

func verifiers(flag string, from []string) (out []audit.Verifier, err error) {
	for _, s := range from {
		if _, err := os.Stat(s); err == nil || strings.Count(s, "+") < 2 {
			b, err := os.ReadFile(s)
			if err != nil {
				return nil, usagef("%s: %w", flag, err)
			}
			s = string(b)
		}
		v, err := audit.ParseVerifiers(s)
		if err != nil {
			return nil, usagef("%s: %w", flag, err)
		}
		out = append(out, v...)
	}
	return out, nil
}

func (v *verifyFlags) run(out *output, file string) (err error) {
	o := audit.Options{MinApprovals: v.approvals, MaxAge: v.maxAge, Tolerance: 5 * time.Second, Now: time.Now()}
	if o.Trusted, err = verifiers("--trust", v.trust); err != nil {
		return err
	}
	if o.Required, err = verifiers("--require", v.require); err != nil {
		return err
	}
	if v.earlier != "" {
		if o.Earlier, err = os.ReadFile(v.earlier); err != nil {
			return usagef("--earlier: %w", err)
		}
	}
	if v.state != "" {
		if o.EarlierState, err = audit.ParseHash(v.state); err != nil {
			return usagef("--earlier-state: %w", err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return usageError{err}
	}
	defer f.Close()
	r, err := audit.Verify(f, o)
	if errors.Is(err, audit.ErrOptions) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	if v.keep != "" && r.Verified {
		if err := os.WriteFile(v.keep, []byte(r.LastCheckpoint.Note), 0o600); err != nil {
			return fmt.Errorf("keeping the checkpoint: %w", err)
		}
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		return err
	}
	if err := out.answer(r, func(w io.Writer) { fmt.Fprint(w, text.String()) }); err != nil {
		return err
	}
	if !r.Verified {
		return errors.New("the log is not verified")
	}
	return nil
}
