package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyway/hsm"
)

// results sends a batch that must be taken.
func (g *gate) results(body string) []map[string]any {
	g.t.Helper()
	a := g.send("POST", "/api/v1/batch", body)
	if a.status != 200 {
		g.t.Fatalf("batch: %d %.300s", a.status, a.raw)
	}
	var out struct{ Results []map[string]any }
	if err := json.Unmarshal([]byte(a.raw), &out); err != nil {
		g.t.Fatal(err)
	}
	return out.Results
}

func TestABatchAnswersInOrderAndOneBadItemFailsNobody(t *testing.T) {
	g := newGate(t, nil)
	g.crypto.before = func(_ context.Context, op hsm.Op) error {
		if string(op.In) == "panic" {
			panic("secret")
		}
		return nil
	}
	got := g.results(` { "operations" : [
		{"id":"a","op":"sign","key":"k-sign","message":"aGk="},
		{"id":"b","op":"sign","key":"other","message":"aGk="},
		{"id":"c","op":"nonsense","key":"k-sign"},
		{"message":"aGk=","id":"d","key":"k-wrap","plaintext":true,"op":"datakey"},
		{"message":"aGk=","key":"k-sign","op":"sign","id":"late"},
		{"id":"e","op":"random","bytes":4},
		{"id":"f","op":"sign","key":"k-sign","message":"aGk=","bogus":{"id":"not this"},"version":1},
		{"id":"g","op":"sign","key":"k-sign","message":"a"},
		{"id":"h","op":"mac","key":"k-mac","message":"cGFuaWM="},
		{"id":"i","op":"encrypt","key":"k-wrap","plaintext":true},
		{"id":"j","op":"datakey","key":"k-wrap","plaintext":"aGk="},
		{"id":"k","op":"random","bytes":4,"key":"k-wrap"},
		{"id":"l","op":"mac","message":"aGk="},
		{"id":"m","key":"k-mac","message":"aGk="},
		{"id":"n","op":"public.pem","key":"k-sign"},
		{"id":"o","op":"batch","key":"k-sign"},
		{"id":16,"op":"mac/verify","key":"k-mac","message":"aGk=","mac":""},
		{"op":"random","bytes":1},
		{"id":"\u00e9\"","op":"random","bytes":1},
		{"id":"x","id":"y","op":"random","bytes":1},
		7, null, "text", [1,{"op":"sign"}], {}
	] } `)
	want := []struct {
		id     any
		status int
		kind   string
	}{{"a", 200, ""}, {"b", 404, "not_found"}, {"c", 400, "malformed"}, {"d", 400, "malformed"}, {"late", 200, ""}, {"e", 200, ""}, {"f", 400, "malformed"}, {"g", 400, "malformed"},
		{"h", 500, "internal"}, {"i", 400, "malformed"}, {"j", 400, "malformed"}, {"k", 400, "malformed"}, {"l", 400, "malformed"}, {"m", 400, "malformed"}, {"n", 400, "malformed"},
		{"o", 400, "malformed"}, {16.0, 200, ""}, {"", 200, ""}, {"é\"", 200, ""}, {"x", 400, "malformed"}, {"", 400, "malformed"}, {"", 400, "malformed"}, {"", 400, "malformed"}, {"", 400, "malformed"}, {"", 400, "malformed"}}
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d", len(got), len(want))
	}
	ids := map[any]bool{}
	for i, w := range want {
		r := got[i]
		if kind, _ := r["kind"].(string); r["id"] != w.id || r["status"] != float64(w.status) || kind != w.kind {
			t.Errorf("result %d: %v, want %v", i, r, w)
		}
		if w.status != 200 {
			if ids[r["request_id"]] || r["request_id"] == nil {
				t.Errorf("result %d has the request id %v", i, r["request_id"])
			}
			ids[r["request_id"]] = true
		}
	}
	if d := g.results(`{"operations":[{"key":"k-wrap","plaintext":true,"op":"datakey"}]}`)[0]; d["plaintext_key"] == nil {
		t.Errorf("a datakey whose op comes last: %v", d)
	}
	if !strings.Contains(g.log.String(), fmt.Sprint(got[8]["request_id"])) {
		t.Error("the log does not know the id of the operation that panicked")
	}
	for _, detail := range []struct {
		i    int
		want string
	}{{6, "bogus"}, {7, "message"}, {9, "plaintext"}, {10, "plaintext"}, {11, "key"}, {12, "key"}, {13, "op"}, {3, "message"}} {
		if d, _ := got[detail.i]["detail"].(string); !strings.Contains(d, detail.want) {
			t.Errorf("result %d: %q does not name %s", detail.i, d, detail.want)
		}
	}
}

func TestABatchHoldsAThousandOperations(t *testing.T) {
	g := newGate(t, nil)
	batch := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,{"id":"%d","op":"mac","key":"k-mac","message":%q}`, i, b64(fmt.Sprint(i)))
		}
		return `{"operations":[` + b.String()[1:] + `]}`
	}
	got := g.results(batch(1000))
	if len(got) != 1000 {
		t.Fatalf("%d results", len(got))
	}
	seen := map[any]bool{}
	for i, r := range got {
		if r["id"] != fmt.Sprint(i) || r["status"] != 200.0 || seen[r["mac"]] {
			t.Fatalf("result %d: %v", i, r)
		}
		seen[r["mac"]] = true
	}
	for _, i := range []int{0, 500, 999} { // each result is its own operation's
		if v := g.ok("k-mac", "mac/verify", `{"message":%q,"mac":%q}`, b64(fmt.Sprint(i)), got[i]["mac"]); v["valid"] != true {
			t.Errorf("result %d is another operation's", i)
		}
	}
	ops := g.crypto.ops.Load()
	g.refused(g.send("POST", "/api/v1/batch", batch(1001)), TooLarge, "1000")
	if g.crypto.ops.Load() != ops {
		t.Error("a batch that is too large was begun")
	}
}

func TestWhatIsNoBatchFailsWhole(t *testing.T) {
	g := newGate(t, nil)
	for _, c := range [][2]string{{``, "object"}, {`[]`, "object"}, {`{}`, "operations"}, {`{"ops":[]}`, "ops"}, {`{"operations":{}}`, "array"}, {`{"operations":[]}`, "none"}, {`{"operations":[{]}`, "operations"},
		{`{"operations":[{}`, "comma"}, {`{"operations":[{}]`, "comma"}, {`{"operations":[{}],"more":1}`, "more"}, {`{"operations":[{}]} x`, "goes on"}, {`{"operations":[{} {}]}`, "comma"},
		{`{"operations":[{"a":"}]}`, "operations"}, {`{"operations":[,]}`, "operations"}, {`{"operations":[{},]}`, "operations"}} {
		g.refused(g.send("POST", "/api/v1/batch", c[0]), Malformed, c[1])
	}
	g.refused(g.send("POST", "/api/v1/batch", `{"operations":["`+strings.Repeat("x", 16*64<<10)+`"]}`), TooLarge, "body")
	if n := g.crypto.ops.Load(); n != 0 {
		t.Errorf("%d operations reached the token", n)
	}
}

// A batch may have 16 times the body of one operation, and one of its operations no more than it could have alone.
func TestAnOperationOfABatchIsNoLargerThanAlone(t *testing.T) {
	g := newGate(t, nil)
	got := g.results(`{"operations":[{"op":"mac","key":"k-mac","message":"` + strings.Repeat("A", 64<<10) + `","id":"big"},{"op":"mac","key":"k-mac","message":"` + strings.Repeat("A", 60<<10) + `"}]}`)
	if got[0]["status"] != 413.0 || got[0]["id"] != "big" || got[1]["status"] != 200.0 {
		t.Errorf("%v", got)
	}
}

func TestOperationsOfABatchRunAFewAtATime(t *testing.T) {
	g := newGate(t, func(c *Config) { c.BatchWidth = 4 })
	var now atomic.Int64
	release := make(chan struct{})
	g.crypto.before = func(context.Context, hsm.Op) error {
		now.Add(1)
		<-release
		return nil
	}
	go func() {
		waitFor(t, "four operations", func() bool { return now.Load() >= 4 })
		time.Sleep(20 * time.Millisecond) // for any more to begin
		if n := now.Load(); n != 4 {
			t.Errorf("%d operations at once, want 4", n)
		}
		close(release)
	}()
	op := `{"op":"mac","key":"k-mac","message":"aGk="}`
	for _, r := range g.results(`{"operations":[` + op + strings.Repeat(","+op, 99) + `]}`) {
		if r["status"] != 200.0 {
			t.Fatal(r)
		}
	}
	if now.Load() != 100 {
		t.Errorf("%d operations ran, want 100", now.Load())
	}
}
