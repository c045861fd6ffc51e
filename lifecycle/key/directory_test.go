package key

import "testing"

func TestDirectoryGrantsByClientAndByGroup(t *testing.T) {
	d := NewDirectory([]Client{
		{Name: "app", TokenHashes: []string{HashToken("kw_app")}, Groups: []string{"web"}},
		{Name: "off", TokenHashes: []string{HashToken("kw_off")}, Disabled: true},
	}, []Grant{
		{Client: "app", Pattern: "pay-*", Usages: Sign},
		{Group: "web", Pattern: "*", Usages: Verify},
		{Client: "other", Pattern: "*", Usages: Encrypt},
	})
	c, ok := d.ByToken("kw_app")
	if !ok || c.Name != "app" {
		t.Fatalf("ByToken(kw_app) = %v, %v", c, ok)
	}
	if _, ok := d.ByToken("kw_off"); ok {
		t.Error("a disabled client's token was accepted")
	}
	if _, ok := d.ByToken("kw_unknown"); ok {
		t.Error("an unknown token was accepted")
	}
	f := func(name string, want Usage) {
		t.Helper()
		if got := d.Allowed(c, name); got != want {
			t.Errorf("Allowed(%s) = %s, want %s", name, got, want)
		}
	}
	f("pay-1", Sign|Verify)
	f("log-1", Verify)
}

func TestGrantCheckNamesWhatIsWrong(t *testing.T) {
	f := func(g Grant, ok bool) {
		t.Helper()
		if err := g.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", g, err)
		}
	}
	f(Grant{Client: "a", Pattern: "*", Usages: Sign}, true)
	f(Grant{Client: "a", Group: "b", Pattern: "*", Usages: Sign}, false)
	f(Grant{Pattern: "*", Usages: Sign}, false)
	f(Grant{Client: "a", Pattern: "", Usages: Sign}, false)
	f(Grant{Client: "a", Pattern: "[", Usages: Sign}, false)
	f(Grant{Client: "a", Pattern: "*"}, false)
	f(Grant{Client: "a/b", Pattern: "*", Usages: Sign}, false)
	f(Grant{Group: "A", Pattern: "*", Usages: Sign}, false)
}
