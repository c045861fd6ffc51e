package lifecycle_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func TestClientsAndTheirTokens(t *testing.T) {
	ctx := context.Background()
	m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: openStore(t)})
	token, err := m.CreateClient(ctx, "test", key.Client{Name: "app", Groups: []string{"web"}, Rate: 5, Burst: 2})
	if err != nil || !strings.HasPrefix(token, lifecycle.TokenPrefix) || len(token) != len(lifecycle.TokenPrefix)+43 {
		t.Fatalf("token %q, %v", token, err)
	}
	all, err := m.Clients(ctx)
	if err != nil || len(all) != 1 || len(all[0].TokenHashes) != 1 || all[0].TokenHashes[0] != key.HashToken(token) || all[0].Rate != 5 {
		t.Errorf("stored: %+v, %v", all, err)
	}
	again, err := m.NewToken(ctx, "test", "app")
	if err != nil || again == token {
		t.Errorf("a new token: %q, %v", again, err)
	}
	if all, _ = m.Clients(ctx); len(all[0].TokenHashes) != 1 || all[0].TokenHashes[0] != key.HashToken(again) {
		t.Errorf("the earlier token was not taken back: %+v", all)
	}
	if _, err := m.CreateClient(ctx, "test", key.Client{Name: "app"}); !errors.Is(err, lifecycle.ErrExists) {
		t.Errorf("a second client of one name: %v", err)
	}
	if _, err := m.NewToken(ctx, "test", "none"); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("a token for nobody: %v", err)
	}
	if err := m.DeleteClient(ctx, "test", "app"); err != nil {
		t.Error(err)
	}
	if err := m.DeleteClient(ctx, "test", "app"); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("deleting a client twice: %v", err)
	}
}

func TestClientsWithoutSenseAreRefused(t *testing.T) {
	ctx := context.Background()
	m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: openStore(t)})
	hash := key.HashToken("a public key")
	if token, err := m.CreateClient(ctx, "test", key.Client{Name: "cert", CertHashes: []string{hash}}); err != nil || token != "" {
		t.Fatalf("a client with a certificate: token %q, %v", token, err)
	}
	f := func(c key.Client, want error) {
		t.Helper()
		if token, err := m.CreateClient(ctx, "test", c); !errors.Is(err, want) || token != "" {
			t.Errorf("%+v: %q, %v; want %v", c, token, err, want)
		}
	}
	f(key.Client{Name: "Bad Name"}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", Groups: []string{"Bad Group"}}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", Rate: -1}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", Burst: -1}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", CertHashes: []string{"AB:CD"}}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", CertHashes: []string{strings.ToUpper(hash)}}, lifecycle.ErrInvalid)
	f(key.Client{Name: "x", CertHashes: []string{key.HashToken("another"), hash}}, lifecycle.ErrExists)
}

func TestGrants(t *testing.T) {
	ctx := context.Background()
	m := lifecycle.NewManager(lifecycle.ManagerConfig{Store: openStore(t)})
	for _, g := range []key.Grant{{}, {Client: "a", Pattern: "*"}, {Client: "A", Pattern: "*", Usages: key.Sign}, {Client: "a", Pattern: "[", Usages: key.Sign}} {
		if _, err := m.CreateGrant(ctx, "test", g); !errors.Is(err, lifecycle.ErrInvalid) {
			t.Errorf("%+v: %v", g, err)
		}
	}
	a, err := m.CreateGrant(ctx, "test", key.Grant{Client: "a", Pattern: "*", Usages: key.Sign})
	must(t, err)
	b, err := m.CreateGrant(ctx, "test", key.Grant{Group: "g", Pattern: "x-*", Usages: key.Verify})
	must(t, err)
	if all, err := m.Grants(ctx); err != nil || len(all) != 2 || all[0] != a || all[1] != b || a.ID == b.ID {
		t.Errorf("%+v, %v", all, err)
	}
	must(t, m.DeleteGrant(ctx, "test", a.ID))
	if err := m.DeleteGrant(ctx, "test", a.ID); !errors.Is(err, key.ErrNotFound) {
		t.Errorf("deleting a grant twice: %v", err)
	}
	if c, err := m.CreateGrant(ctx, "test", a); err != nil || c.ID == a.ID || c.ID == b.ID {
		t.Errorf("an ID was given twice: %+v, %v", c, err)
	}
}
