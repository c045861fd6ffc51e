package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"keyway/lifecycle/adminapi"
	"keyway/lifecycle/key"
)

func clientCommand(out *output, f *adminFlags) *cobra.Command {
	return f.add(group("client", "make and remove clients of the gateway", clientCreate(out, f), clientList(out, f), clientDelete(out, f), clientToken(out, f)))
}

func clientCreate(out *output, f *adminFlags) *cobra.Command {
	var r adminapi.ClientRequest
	c := &cobra.Command{
		Use: "create NAME", Short: "make a client and print its token, this once", Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			r.Name = args[0]
			var t adminapi.ClientToken
			if err := f.order(c, http.MethodPost, "/clients", r, &t); err != nil {
				return err
			}
			return showToken(out, t)
		},
	}
	c.Flags().StringSliceVar(&r.Groups, "group", nil, "groups the client is in, comma separated")
	c.Flags().StringSliceVar(&r.CertHashes, "cert-sha256", nil, "SHA-256 of the public key (SubjectPublicKeyInfo) of the client's certificates; with one it gets no token")
	c.Flags().Float64Var(&r.Rate, "rate", 0, "operations a second; 0 is no limit")
	c.Flags().IntVar(&r.Burst, "burst", 0, "operations at once above the rate")
	return c
}

// showToken prints the token alone, so that it can go straight into a file.
func showToken(out *output, t adminapi.ClientToken) error {
	if t.Token != "" {
		out.note("the token of %s, shown this once:", t.Name)
	}
	return out.answer(t, func(w io.Writer) {
		if t.Token != "" {
			row(w, t.Token)
		} else {
			row(w, "client "+t.Name+" is known by its certificates")
		}
	})
}

func clientList(out *output, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the clients", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			var list adminapi.ClientList
			if err := f.order(c, http.MethodGet, "/clients", nil, &list); err != nil {
				return err
			}
			return out.answer(list, func(w io.Writer) {
				row(w, "NAME", "GROUPS", "TOKENS", "CERTIFICATES", "RATE", "BURST", "DISABLED")
				for _, x := range list.Clients {
					row(w, x.Name, strings.Join(x.Groups, ","), x.Tokens, len(x.CertHashes), x.Rate, x.Burst, x.Disabled)
				}
			})
		},
	}
}

func clientDelete(out *output, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "remove a client; its grants stay, without effect", Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := f.order(c, http.MethodDelete, at("clients", args[0]), nil, nil); err != nil {
				return err
			}
			return out.answer(map[string]string{"deleted": args[0]}, func(w io.Writer) { row(w, "client "+args[0]+" is deleted") })
		},
	}
}

func clientToken(out *output, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "token NAME", Short: "give a client a new token and take back every earlier one", Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			var t adminapi.ClientToken
			if err := f.order(c, http.MethodPost, at("clients", args[0], "token"), nil, &t); err != nil {
				return err
			}
			return showToken(out, t)
		},
	}
}

func grantCommand(out *output, f *adminFlags) *cobra.Command {
	return f.add(group("grant", "say which clients may do what with which keys", grantCreate(out, f), grantList(out, f), grantDelete(out, f)))
}

func grantCreate(out *output, f *adminFlags) *cobra.Command {
	var g key.Grant
	var usages []string
	c := &cobra.Command{
		Use: "create (--client C | --group G) --pattern P --usage U,…", Short: "allow a client or a group some usages of the keys that match a pattern", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if g.Usages, err = key.ParseUsages(usages); err != nil {
				return usagef("--usage: %w", err)
			}
			if err := g.Check(); err != nil {
				return usageError{err}
			}
			if err := f.order(c, http.MethodPost, "/grants", g, &g); err != nil {
				return err
			}
			return showGrants(out, g, g)
		},
	}
	c.Flags().StringVar(&g.Client, "client", "", "the client")
	c.Flags().StringVar(&g.Group, "group", "", "the group of clients")
	c.Flags().StringVar(&g.Pattern, "pattern", "", "names of keys, with * ? and [a-z]")
	c.Flags().StringSliceVar(&usages, "usage", nil, "sign, verify, encrypt, decrypt, wrap, unwrap, mac, mac-verify; comma separated")
	return c
}

// showGrants answers v, or a table of grants.
func showGrants(out *output, v any, grants ...key.Grant) error {
	return out.answer(v, func(w io.Writer) {
		row(w, "ID", "CLIENT", "GROUP", "PATTERN", "USAGES")
		for _, g := range grants {
			row(w, g.ID, g.Client, g.Group, g.Pattern, g.Usages)
		}
	})
}

func grantList(out *output, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "list the grants", Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			var list adminapi.GrantList
			if err := f.order(c, http.MethodGet, "/grants", nil, &list); err != nil {
				return err
			}
			return showGrants(out, list, list.Grants...)
		},
	}
}

func grantDelete(out *output, f *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID", Short: "take a grant back", Args: exactly("ID"),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := strconv.ParseInt(args[0], 10, 64); err != nil {
				return usagef("a grant's ID is a number, not %q; keyway grant list shows them", args[0])
			}
			if err := f.order(c, http.MethodDelete, at("grants", args[0]), nil, nil); err != nil {
				return err
			}
			return out.answer(map[string]string{"deleted": args[0]}, func(w io.Writer) { row(w, fmt.Sprintf("grant %s is deleted", args[0])) })
		},
	}
}
