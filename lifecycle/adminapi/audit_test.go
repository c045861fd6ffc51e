package adminapi

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"testing"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
)

// An export ends with whether it is whole, and verifies; one that cannot begin is a problem, and one that stops on the way is no whole one.
func TestTheLogIsExported(t *testing.T) {
	h := newHouse(t, nil)
	h.ok("POST", "/admin/v1/keys", `{"name":"k","algorithm":"aes-256"}`, 201)
	v, err := audit.NewVerifier(h.verifier)
	must(t, err)
	w := h.send("POST", "/admin/v1/audit/export", "")
	r, err := audit.Verify(w.Body, audit.Options{Trusted: []audit.Verifier{v}, Each: func(e *audit.Entry) {
		if want := (audit.Actor{Name: "alice", Auth: audit.ByToken}); (e.Object.Kind == audit.KindKey || e.Action == audit.ExportMade) && e.Actor != want {
			t.Errorf("%s is said to be by %+v, want %+v", e.Action, e.Actor, want)
		}
	}})
	must(t, err)
	if said := w.Result().Trailer.Get(ExportTrailer); w.Code != 200 || said != "complete" || !r.Verified || r.Actions[audit.ExportMade] != 1 {
		t.Errorf("%d, %q, %+v", w.Code, said, r.Failures)
	}
	h.refused(h.send("POST", "/admin/v1/audit/export?from=9999", ""), 400, "malformed", "9999")
	h.refused(h.send("POST", "/admin/v1/audit/export?from=x", ""), 400, "malformed", "from")
	h.refused(h.send("GET", "/admin/v1/audit/entries?limit=1001", ""), 400, "malformed", "limit")

	// A checkpoint that nobody can read stands in the way.
	must(t, h.store.Update(context.Background(), func(tx lifecycle.Tx) error { return tx.PutCheckpoint(1, []byte("none")) }))
	h.refused(h.send("POST", "/admin/v1/audit/export", ""), 500, "log_damaged", "checkpoint")
	// Nor is it hidden once the answer has begun.
	w = httptest.NewRecorder()
	h.api.stream(w, httptest.NewRequest("POST", "/", nil), streamed{func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "half")
		return errors.Join(err, errors.New("the store\r\nwent away"))
	}})
	if said := w.Result().Trailer.Get(ExportTrailer); w.Body.String() != "half" || said != `"the store\r\nwent away"` {
		t.Errorf("an export that was not finished: %q ends with %q", w.Body, said)
	}
	none := newHouse(t, func(c *Config) { c.Audit = nil })
	none.refused(none.send("POST", "/admin/v1/audit/export", ""), 503, "unavailable", "audit log")
	none.refused(none.send("GET", "/admin/v1/audit/entries", ""), 503, "unavailable", "audit log")
}
