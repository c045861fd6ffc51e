package main

import (
	"strings"
	"testing"

	"keyway/lifecycle"
)

func TestAMembersURIIsReadIntoItsSettings(t *testing.T) {
	p := poolConfig{Name: "default", Members: []lifecycle.MemberRecord{
		{Name: "a", URI: "pkcs11:token=t;model=m?module-path=/lib.so&pin-source=file:/pin"},
		{Name: "b", URI: "pkcs11:token=t?module-path=/lib.so&pin-value=the-pin", PINFile: "/pin"},
	}}
	var v verdict
	v.pool("pools[0]", p, map[string]bool{})
	if m := p.Members[0]; m.Driver != "pkcs11" || m.Module != "/lib.so" || m.TokenLabel != "t" || m.TokenModel != "m" || m.PINFile != "/pin" {
		t.Errorf("%+v", m)
	}
	if got := paramsOf(p.Members[0]); got.Model != "m" || got.Label != "t" {
		t.Errorf("the worker is told %+v", got)
	}
	refused := false
	for _, err := range v {
		w := err.(*wrongField)
		if strings.HasPrefix(w.path, "pools[0].members[0]") {
			t.Errorf("%v", w)
		}
		refused = refused || w.path == "pools[0].members[1].uri"
		if strings.Contains(w.Error(), "the-pin") {
			t.Errorf("the PIN is in %v", w)
		}
	}
	if !refused {
		t.Errorf("a PIN in a URI was not refused at its place: %v", v)
	}
}
