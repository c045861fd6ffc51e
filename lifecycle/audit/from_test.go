package audit

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyway/lifecycle/key"
)

// What the store holds can be written, and reads as it was.
func TestFactsOfTheStore(t *testing.T) {
	at := time.UnixMilli(1790000000123)
	v := &key.Version{ID: key.ID{2}, Name: "pay", Number: 3, State: key.Active, RecipientEnd: at, Public: []byte("spki")}
	c, err := ClientFact(&key.Client{Name: "app", Groups: []string{"web"}, TokenHashes: []string{key.HashToken("t")}, CertHashes: []string{key.HashToken("c")}, Rate: 0.5, Burst: 7, Disabled: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		f    *Fact
		want string
	}{
		{KeyFact(&key.Key{ID: key.ID{1}, Name: "pay", Algorithm: key.AES256, Usages: key.Encrypt | key.Decrypt, Pool: "default", Primary: 3}),
			`{"details":{"algorithm":"aes-256","pool":"default","primary":3,"usages":["encrypt","decrypt"]},"object":{"id":"01000000000000000000000000000000","kind":"key","name":"pay"}}`},
		{VersionFact(v, true, false),
			`{"details":{"generated":true,"public":"` + HashOf([]byte("spki")).String() + `","recipient_end":1790000000123,"state":"active"},"object":{"id":"02000000000000000000000000000000","kind":"version","name":"pay","number":3}}`},
		{c, `{"details":{"burst":7,"certificates":["` + key.HashToken("c") + `"],"disabled":true,"groups":["web"],"rate":500,"tokens":["` + key.HashToken("t") + `"]},"object":{"kind":"client","name":"app"}}`},
		{GrantFact(&key.Grant{ID: 4, Group: "web", Pattern: "Pay-[a-f]*", Usages: key.Sign}), `{"details":{"group":"web","pattern":"Pay-[a-f]*","usages":["sign"]},"object":{"kind":"grant","number":4}}`},
	} {
		b, err := x.f.Encode()
		if err != nil || string(b) != x.want {
			t.Errorf("%v\n%s, want\n%s", err, b, x.want)
		}
		if _, err := DecodeFact(b); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []key.Client{{Name: "x", Rate: -1}, {Name: "x", Rate: 1e300}, {Name: "x", TokenHashes: []string{"secret"}}} {
		if f, err := ClientFact(&c); err == nil {
			t.Errorf("%+v became %+v", c, f)
		}
	}
}

func TestDecodeFactRefusesOtherForms(t *testing.T) {
	for _, s := range []string{
		``, `{}`, `{"details":{"burst":0},"object":{"kind":"client","name":"a"}}`, `{"details":{},"object":{"kind":"job","id":"01000000000000000000000000000000"}}`,
		`{"details":{},"object":{"kind":"member","name":"a"}}`, `{"details":{"role":"auditor"},"object":{"kind":"client","name":"a"}}`, `{"details": {},"object":{"kind":"client","name":"a"}}`,
		`{"details":{},"object":{"kind":"client","name":"A"}}`,
	} {
		if f, err := DecodeFact([]byte(s)); err == nil {
			t.Errorf("%s was read as %+v", s, f)
		}
	}
	if _, err := DecodeFact([]byte(`{"details":{},"object":{"kind":"client","name":"a"}}`)); err != nil {
		t.Error(err)
	}
}

func TestFactRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(sortedKeys(shapes)).Draw(t, "kind")
		f := &Fact{drawObject(t, kind), drawDetails(t, shapes[kind])}
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeFact(b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		if again, err := back.Encode(); err != nil || string(again) != string(b) || CompareObjects(back.Object, f.Object) != 0 {
			t.Fatalf("%s came back as %s, %v", b, again, err)
		}
		if _, err := DecodeFact(append(b, ' ')); err == nil {
			t.Fatal("a second form of a fact was read")
		}
	})
}

func TestNameOfIsAlwaysAName(t *testing.T) {
	if got := NameOf("GW1.Example.com"); got != "gw1.example.com" {
		t.Error(got)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := NameOf(rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,200}`)).Draw(t, "s"))
		if err := n.check(); err != nil {
			t.Fatal(err)
		}
	})
}
