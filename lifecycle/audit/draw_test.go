package audit

import (
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keyway/lifecycle/key"
)

var (
	drawName  = rapid.StringMatching(`[a-z0-9]([a-z0-9._-]{0,12}[a-z0-9])?`)
	drawNames = rapid.Map(rapid.SliceOfN(drawName, 1, 4), func(s []string) Name { return Name(strings.Join(s, "/")) })
	drawText  = rapid.Custom(func(t *rapid.T) Text {
		s := rapid.OneOf(rapid.String(), rapid.StringMatching(`["\\/ü€𝄞 a-z]{0,40}`), rapid.StringMatching(`[0-9A-Fa-f :+/=_-]{0,80}`)).Draw(t, "said")
		return TextOf(s)
	})
	drawID = rapid.Custom(func(t *rapid.T) key.ID {
		var id key.ID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		id[15] |= 1
		return id
	})
	drawHash = rapid.Map(rapid.SliceOf(rapid.Byte()), HashOf)
)

// drawValue fills one field with something that is valid and not zero, by its type.
func drawValue(t *rapid.T, v reflect.Value) {
	set := func(x any) { v.Set(reflect.ValueOf(x)) }
	switch v.Interface().(type) {
	case Name:
		set(drawNames.Draw(t, "name"))
	case Principal:
		set(Principal(rapid.StringMatching(`[A-Za-z0-9._@:/-]{1,30}`).Draw(t, "principal")))
	case Origin:
		set(Origin(rapid.StringMatching(`[A-Za-z0-9._:/-]{1,30}`).Draw(t, "origin")))
	case Pattern:
		set(Pattern(rapid.StringMatching(`[!-~]{1,30}`).Draw(t, "pattern")))
	case Text:
		set(drawText.Filter(func(s Text) bool { return s != "" }).Draw(t, "text"))
	case Number:
		set(Number(rapid.Int64Range(1, maxNumber).Draw(t, "number")))
	case Time:
		set(Time(rapid.Int64Range(1, maxNumber).Draw(t, "time")))
	case Flag:
		set(Flag(true))
	case Hash:
		set(drawHash.Draw(t, "hash"))
	case KCV:
		k, _ := KCVOf([]byte{rapid.Byte().Draw(t, "kcv"), 2, 3})
		set(k)
	case Role:
		set(rapid.SampledFrom(roles).Draw(t, "role"))
	case Status:
		set(rapid.SampledFrom(statuses).Draw(t, "status"))
	case key.State:
		set(key.State(rapid.IntRange(int(key.PreActive), int(key.DestroyedCompromised)).Draw(t, "state")))
	case key.Event:
		set(key.Event(rapid.IntRange(int(key.Activate), int(key.Destroy)).Draw(t, "event")))
	case key.Usage:
		set(key.Usage(rapid.IntRange(1, int(key.Originator|key.Recipient)).Draw(t, "usages")))
	case key.Algorithm:
		set(rapid.SampledFrom(key.Algorithms()).Draw(t, "algorithm").Algorithm)
	default:
		if v.Kind() != reflect.Slice {
			t.Fatalf("no way to draw a %s", v.Type())
		}
		n := rapid.IntRange(1, 4).Draw(t, "items")
		list := reflect.MakeSlice(v.Type(), n, n)
		for i := range n {
			drawValue(t, list.Index(i))
		}
		v.Set(list)
	}
}

// goName turns the name of a field in JSON into its name in Details.
func goName(name string) string {
	if name == "kcv" {
		return "KCV"
	}
	var b strings.Builder
	for _, w := range strings.Split(name, "_") {
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	return b.String()
}

func drawObject(t *rapid.T, kind ObjectKind) Object {
	o := Object{Kind: kind}
	p := parts[kind]
	if p.name {
		o.Name = drawNames.Draw(t, "object")
	}
	if p.number {
		o.Number = Number(rapid.Int64Range(1, maxNumber).Draw(t, "of"))
	}
	if p.id {
		o.ID = drawID.Draw(t, "object ID")
	}
	return o
}

func drawDetails(t *rapid.T, r rule) Details {
	var d Details
	fill := func(name string) { drawValue(t, reflect.ValueOf(&d).Elem().FieldByName(goName(name))) }
	for _, n := range r.must {
		fill(n)
	}
	for _, n := range r.may {
		if rapid.Bool().Draw(t, n) {
			fill(n)
		}
	}
	return d
}

// drawEntry makes any entry of an action that can be.
func drawEntry(t *rapid.T, a Action) *Entry {
	kind := rules[a].kind
	if kind == "" {
		kind = rapid.SampledFrom(sortedKeys(shapes)).Draw(t, "kind")
	}
	r, err := ruleOf(a, kind)
	if err != nil {
		t.Fatal(err)
	}
	e := &Entry{
		Seq:  Number(rapid.Int64Range(0, maxNumber).Draw(t, "seq")),
		Time: Time(rapid.Int64Range(1, maxNumber).Draw(t, "time")), Node: drawNames.Draw(t, "node"),
		Actor:  Actor{Principal(rapid.StringMatching(`[A-Za-z0-9._@:/-]{1,20}`).Draw(t, "actor")), rapid.SampledFrom(auths).Draw(t, "auth")},
		Action: a, Object: drawObject(t, kind), Outcome: rapid.SampledFrom(outcomes).Draw(t, "outcome"), Details: drawDetails(t, r),
	}
	if rapid.Bool().Draw(t, "planned") {
		e.Plan = drawID.Draw(t, "plan")
	}
	if e.Actor.Auth == ByNothing || a == LoginRefused {
		e.Outcome = Refused
	}
	return e
}

// forEachAction runs f as a property of each action.
func forEachAction(t *testing.T, f func(*rapid.T, Action)) {
	t.Helper()
	for _, a := range Actions() {
		t.Run(string(a), func(t *testing.T) { rapid.Check(t, func(t *rapid.T) { f(t, a) }) })
	}
}
