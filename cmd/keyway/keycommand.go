package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"

	"github.com/spf13/cobra"

	"keyway/lifecycle"
	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
)

func keyCommand(out *output, f *adminFlags) *cobra.Command {
	c := group("key", "create, list, rotate and end keys",
		keyCreate(out, f), keyList(out, f),
		keyOrder(out, f, http.MethodGet, "show", "", "show a key with its versions"),
		keyOrder(out, f, http.MethodPost, "rotate", "rotate", "make a new version the primary one; older ones still open what they protected"),
		keyChange(out, f, "disable", "suspend a version: it does nothing until it is enabled"),
		keyChange(out, f, "enable", "enable a suspended version again"),
		keyChange(out, f, "deactivate", "let a version protect nothing new"),
		keyChange(out, f, "compromise", "mark a version as compromised"),
		keyChange(out, f, "destroy", "erase a version's material, for ever; it must be deactivated or compromised"),
	)
	return f.add(c)
}

func keyCreate(out *output, f *adminFlags) *cobra.Command {
	var r lifecycle.KeyRequest
	var algorithm string
	var usages []string
	c := &cobra.Command{
		Use: "create NAME --algorithm A", Short: "make a key", Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name, r.Algorithm = args[0], key.Algorithm(algorithm)
			if _, err := r.Algorithm.Info(); err != nil {
				return usagef("--algorithm: %w", err)
			}
			var err error
			if r.Usages, err = key.ParseUsages(usages); err != nil {
				return usagef("--usage: %w", err)
			}
			if err := key.CheckName(r.Name); err != nil {
				return usageError{err}
			}
			var k key.Key
			// Usages marshals as a list, and an empty one is no usage at all, so it is left out for the default.
			body := map[string]any{"name": r.Name, "algorithm": r.Algorithm, "pool": r.Pool}
			if r.Usages != 0 {
				body["usages"] = r.Usages
			}
			if err := f.order(c, http.MethodPost, "/keys", body, &k); err != nil {
				return err
			}
			return showKey(out, &k)
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", "", "aes-128, aes-256, hmac-sha-256, hmac-sha-384, hmac-sha-512, rsa-2048, rsa-3072, rsa-4096, ec-p256, ec-p384, ec-p521 or ed25519")
	c.Flags().StringSliceVar(&usages, "usage", nil, "what the key is for, comma separated (default: what its algorithm is usually for)")
	c.Flags().StringVar(&r.Pool, "pool", "", "the pool that uses the key (default: the node's default pool)")
	return c
}

func keyList(out *output, f *adminFlags) *cobra.Command {
	var after string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "list the keys", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 0 {
				return usagef("--limit: use 0 for all, or more")
			}
			all, err := f.keys(c, after, limit)
			if err != nil {
				return err
			}
			return out.answer(all, func(w io.Writer) {
				row(w, "NAME", "ALGORITHM", "USAGES", "POOL", "PRIMARY", "VERSIONS", "CREATED")
				for _, k := range all.Keys {
					row(w, k.Name, k.Algorithm, k.Usages, k.Pool, primary(k), len(k.Versions), when(k.Created))
				}
			})
		},
	}
	c.Flags().StringVar(&after, "after", "", "begin after this name")
	c.Flags().IntVar(&limit, "limit", 0, "list at most so many; 0 lists all")
	return c
}

// keys reads up to limit keys after a name, all of them where limit is 0, page by page.
func (f *adminFlags) keys(c *cobra.Command, after string, limit int) (all adminapi.KeyPage, err error) {
	client, err := f.client()
	if err != nil {
		return all, err
	}
	var read atomic.Int64
	defer f.out.waiting(func() string { return fmt.Sprintf("reading keys: %d so far", read.Load()) })()
	all = adminapi.KeyPage{Keys: []*key.Key{}, Next: after}
	for {
		want := 1000
		if limit > 0 {
			want = min(want, limit-len(all.Keys))
		}
		var page adminapi.KeyPage
		q := url.Values{"limit": {strconv.Itoa(want)}, "after": {all.Next}}
		if err := client.do(c.Context(), http.MethodGet, "/keys?"+q.Encode(), nil, &page); err != nil {
			return all, err
		}
		all.Keys, all.Next = append(all.Keys, page.Keys...), page.Next
		read.Store(int64(len(all.Keys)))
		if page.Next == "" || limit > 0 && len(all.Keys) >= limit {
			return all, nil
		}
	}
}

// primary tells the primary version's number, or that there is none.
func primary(k *key.Key) string {
	if k.Primary == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(k.Primary), 10)
}

func showKey(out *output, k *key.Key) error {
	return out.answer(k, func(w io.Writer) {
		row(w, "NAME", "ALGORITHM", "USAGES", "POOL", "CREATED")
		row(w, k.Name, k.Algorithm, k.Usages, k.Pool, when(k.Created))
		row(w)
		row(w, "VERSION", "STATE", "ROLE", "ID", "CREATED")
		for _, v := range k.Versions {
			mark := "-"
			if v.Number == k.Primary {
				mark = "primary"
			}
			row(w, v.Number, v.State, mark, v.ID, when(v.Created))
		}
	})
}

// keyOrder is a command for a whole key.
func keyOrder(out *output, f *adminFlags, method, name, verb, short string) *cobra.Command {
	return &cobra.Command{
		Use: name + " NAME", Short: short, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			path := at("keys", args[0])
			if verb != "" {
				path += at(verb)
			}
			var k key.Key
			if err := f.order(c, method, path, nil, &k); err != nil {
				return err
			}
			return showKey(out, &k)
		},
	}
}

// keyChange is a command for one version.
func keyChange(out *output, f *adminFlags, name, short string) *cobra.Command {
	var v uint32
	c := &cobra.Command{
		Use: name + " NAME [--version N]", Short: short, Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if name == "destroy" && v == 0 {
				return usagef("--version: name the version to destroy; this cannot be undone")
			}
			var k key.Key
			if err := f.order(c, http.MethodPost, at("keys", args[0], name), adminapi.VersionRequest{Version: v}, &k); err != nil {
				return err
			}
			return showKey(out, &k)
		},
	}
	c.Flags().Uint32Var(&v, "version", 0, "the version; 0 is the primary one")
	return c
}
