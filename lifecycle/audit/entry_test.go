package audit

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"keyway/lifecycle/key"
)

// No field of an entry can hold bytes of anybody's choosing: the types of fields are a closed set, and a new one must be
// put here by hand.
func TestNoFieldHoldsMaterial(t *testing.T) {
	allowed := []any{
		Name(""), Principal(""), Origin(""), Pattern(""), Text(""), Number(0), Time(0), Flag(false), Hash{}, KCV{}, Role(""), Status(""), Auth(""), Outcome(""),
		Action(""), ObjectKind(""), key.State(0), key.Event(0), key.Usage(0), key.Algorithm(""), key.ID{},
	}
	types := map[reflect.Type]bool{}
	for _, a := range allowed {
		types[reflect.TypeOf(a)] = true
	}
	seen := 0
	var walk func(path string, ty reflect.Type)
	walk = func(path string, ty reflect.Type) {
		switch {
		case types[ty]:
			seen++
		case ty.Kind() == reflect.Struct:
			for i := range ty.NumField() {
				walk(path+"."+ty.Field(i).Name, ty.Field(i).Type)
			}
		case ty.Kind() == reflect.Slice && types[ty.Elem()]:
			seen++
		default:
			t.Errorf("%s is a %s, which may hold anything", path, ty)
		}
	}
	walk("Entry", reflect.TypeFor[Entry]())
	walk("Fact", reflect.TypeFor[Fact]())
	if seen < 50 {
		t.Errorf("only %d fields were looked at", seen)
	}
	// What has a fixed length of bytes cannot be made of bytes outside this package, but from a hash or three bytes.
	for _, x := range []any{Hash{}, KCV{}} {
		for i := range reflect.TypeOf(x).NumField() {
			if f := reflect.TypeOf(x).Field(i); f.IsExported() {
				t.Errorf("%T.%s can be set from outside", x, f.Name)
			}
		}
	}
}

// The table of fields has each field of Details once, in the order in which RFC 8785 writes them.
func TestFieldTableIsDetails(t *testing.T) {
	ty := reflect.TypeFor[Details]()
	if ty.NumField() != len(fields) || len(fields) > 64 {
		t.Fatalf("Details has %d fields, the table %d", ty.NumField(), len(fields))
	}
	var d Details
	for i, f := range fields {
		if i > 0 && fields[i-1].name >= f.name {
			t.Errorf("%s is out of order", f.name)
		}
		sf, ok := ty.FieldByName(goName(f.name))
		if !ok {
			t.Errorf("Details has no field for %s", f.name)
			continue
		}
		got := reflect.ValueOf(f.of(&d))
		if got.Kind() == reflect.Struct { // a list
			got = got.Field(0)
		}
		if got.Pointer() != reflect.ValueOf(&d).Elem().FieldByIndex(sf.Index).Addr().Pointer() {
			t.Errorf("%s is written from another field", f.name)
		}
	}
}

func TestEveryActionHasItsRule(t *testing.T) {
	if len(rules) < 40 {
		t.Fatalf("%d actions", len(rules))
	}
	for a, r := range rules {
		if _, ok := parts[r.kind]; !ok && r.kind != "" {
			t.Errorf("%s: no kind %q", a, r.kind)
		}
		for _, f := range r.must {
			if slices.Contains(r.may, f) {
				t.Errorf("%s: %s may and must be", a, f)
			}
		}
	}
}

// An entry comes back as it was, its form is that of an independent implementation of RFC 8785, and no change of a byte
// reads as the same entry.
func TestEntryRoundTrip(t *testing.T) {
	forEachAction(t, func(t *rapid.T, a Action) {
		e := drawEntry(t, a)
		b, err := e.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		if !reflect.DeepEqual(back, e) {
			t.Fatalf("%s came back as %+v, was %+v", b, back, e)
		}
		canonical, err := jcs.Transform(b)
		if err != nil || !bytes.Equal(canonical, b) {
			t.Fatalf("RFC 8785 wants\n%s, not\n%s (%v)", canonical, b, err)
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		changed := bytes.Clone(b)
		changed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if other, err := Decode(changed); err == nil && reflect.DeepEqual(other, e) {
			t.Fatalf("two forms of one entry:\n%s\n%s", b, changed)
		}
	})
}

func sample() *Entry {
	return &Entry{
		Seq: 7, Time: 1790000000123, Node: "n1", Actor: Actor{"anna@example.com", ByCertificate}, Action: StateChanged,
		Object:  Object{Kind: KindVersion, Name: "pay", Number: 2, ID: key.ID{1, 2, 3}},
		Outcome: Done, Details: Details{From: key.Active, Event: key.Suspend, To: key.Suspended, Reason: `the "old" \ one, größer`},
	}
}

const sampleJSON = `{"action":"state-changed","actor":{"auth":"certificate","name":"anna@example.com"},"details":{"event":"suspend","from":"active","reason":"the \"old\" \\ one, größer","to":"suspended"},` +
	`"node":"n1","object":{"id":"01020300000000000000000000000000","kind":"version","name":"pay","number":2},"outcome":"done","seq":7,"time":1790000000123,"v":1}`

// The form is for ever: what auditors hold must be readable in years.
func TestEncodingStaysAsItIs(t *testing.T) {
	b, err := sample().Encode()
	if err != nil || string(b) != sampleJSON {
		t.Fatalf("%v\n%s\nwant\n%s", err, b, sampleJSON)
	}
}

func TestDecodeRefusesOtherForms(t *testing.T) {
	f := func(old, new string) {
		t.Helper()
		b := strings.Replace(sampleJSON, old, new, 1)
		if b == sampleJSON {
			t.Fatalf("%q is not in the sample", old)
		}
		if e, err := Decode([]byte(b)); err == nil {
			t.Errorf("%q for %q was read as %+v", new, old, e)
		}
	}
	f(`{"action"`, ` {"action"`)
	f(`"seq":7`, `"seq": 7`)
	f(`"seq":7`, `"seq":07`)
	f(`"seq":7`, `"seq":7.0`)
	f(`"seq":7`, `"seq":7e0`)
	f(`"seq":7`, `"seq":-7`)
	f(`"seq":7`, `"seq":9007199254740992`)
	f(`"seq":7,"time":1790000000123`, `"time":1790000000123,"seq":7`)
	f(`"seq":7`, `"seq":7,"seq":7`)
	f(`"outcome":"done"`, `"note":"x","outcome":"done"`)
	f(`"outcome":"done"`, `"outcome":"fine"`)
	f(`"v":1}`, `"v":2}`)
	f(`"v":1}`, `"v":1}{}`)
	f(`"v":1}`, `"v":1`)
	f(`suspend"`, `susp\u0065nd"`)
	f(`ö`, `\u00f6`)
	f(`ö`, "\xf6")
	f(`\\ one`, `\/ one`)
	f(`old`, "o\nd")
	f(`old`, `o\nd`)
	f(`old`, "o\u202ed") // would print the line from right to left
	f(`old`, "o\u2028d")
	f(`old`, `000102030405060708090a0b0c0d0e0f`)
	f(`"event":"suspend","from":"active"`, `"from":"active","event":"suspend"`)
	f(`"event":"suspend",`, `"event":"suspend","material":"AAAA",`)
	f(`"event":"suspend",`, ``)
	f(`"event":"suspend"`, `"event":""`)
	f(`"event":"suspend",`, `"disabled":true,"event":"suspend",`) // not of this action
	f(`"outcome":"done"`, `"outcome":"done","plan":"00000000000000000000000000000000"`)
	f(`"id":"0102`, `"id":"0A02`)
}

func TestTextHoldsNoKeys(t *testing.T) {
	key32 := strings.Repeat("0f1e2d3c", 8)
	for _, s := range []string{
		key32, key32[:32], strings.ToUpper(key32), "component " + key32 + " entered", "AAECAwQFBgcICQoLDA0ODw==", "c2VjcmV0LXNlY3JldC1zZWNy12ZXQ=",
		"0011 2233 4455 6677 8899 AABB CCDD EEFF", "00112233-44556677-8899aabb-ccddeeff", "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
		"k Zx_8-qP2/aB3dE5fG7hI9jK1 z", "mfrggzdfmztwq2lknnwg23tpoa2tsnbt",
	} {
		x := Text(s)
		if x.check() == nil {
			t.Errorf("%q may be written", s)
		}
		if got := TextOf(s); strings.Contains(string(got), s) || !strings.Contains(string(got), "[removed]") {
			t.Errorf("TextOf(%q) = %q", s, got)
		}
	}
	for _, s := range []string{
		"", "suspected compromise, ticket INC0012345678", "end of the cryptoperiod 2026-11-24T10:28:24Z", "CKR_DEVICE_ERROR (0x30) from /usr/lib/softhsm/libsofthsm2.so",
		"Donaudampfschifffahrtsgesellschaft", "added a faded decade to be fed", "größer als 3 €, says Zoë", `a "quoted" \ word`, "pay-sepa-2026-signing-key-production-cluster-7",
	} {
		x := Text(s)
		if err := x.check(); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if got := TextOf(s); string(got) != s {
			t.Errorf("TextOf(%q) = %q", s, got)
		}
	}
	if got := TextOf("two\nlines\tand " + strings.Repeat("more ", 100)); !strings.HasPrefix(string(got), "two lines and more") || len(got) > maxText {
		t.Errorf("%q", got)
	}
}

func TestTextOfIsAlwaysAText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,400}`), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })).Draw(t, "s")
		x := TextOf(s)
		if err := x.check(); err != nil {
			t.Fatalf("TextOf(%q) = %q: %v", s, x, err)
		}
		p := PrincipalOf(s)
		if err := p.check(); err != nil {
			t.Fatalf("PrincipalOf(%q) = %q: %v", s, p, err)
		}
	})
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	f := func(want string, change func(*Entry)) {
		t.Helper()
		e := sample()
		change(e)
		if _, err := e.Encode(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want something of %q", err, want)
		}
	}
	f("node", func(e *Entry) { e.Node = "N 1" })
	f("principal", func(e *Entry) { e.Actor.Name = "two words" })
	f("authentication", func(e *Entry) { e.Actor.Auth = "charm" })
	f("outcome", func(e *Entry) { e.Outcome = "" })
	f("time", func(e *Entry) { e.Time = 0 })
	f("unknown action", func(e *Entry) { e.Action = "key-eaten" })
	f("about a version", func(e *Entry) { e.Object.Kind = KindKey })
	f("object", func(e *Entry) { e.Object.ID = key.ID{} })
	f("event is missing", func(e *Entry) { e.Details.Event = 0 })
	f("role has no place", func(e *Entry) { e.Details.Role = RoleAuditor })
	f("unprintable", func(e *Entry) { e.Details.Reason = "a\x00b" })
	f("text of 257 bytes", func(e *Entry) { e.Details.Reason = Text(strings.Repeat("long ", 52)[:257]) })
	f("not refused", func(e *Entry) {
		e.Action, e.Details, e.Object = LoginRefused, Details{}, Object{Kind: KindNode, Name: "n1"}
	})
	f("not authenticated", func(e *Entry) { e.Actor.Auth = ByNothing })
}

// FuzzDecode: whatever is read is written again byte for byte.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(sampleJSON))
	for _, a := range Actions() {
		kind := rules[a].kind
		if kind == "" {
			kind = KindKey
		}
		f.Add([]byte(`{"action":"` + string(a) + `","actor":{"auth":"system","name":"x"},"node":"n","object":{"kind":"` + string(kind) + `","name":"a/b"},"outcome":"done","seq":0,"time":1,"v":1}`))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q was read and is written as %q, %v", b, again, err)
		}
		if c, err := jcs.Transform(b); err != nil || !bytes.Equal(c, b) {
			t.Fatalf("%q is not RFC 8785: %q, %v", b, c, err)
		}
	})
}
