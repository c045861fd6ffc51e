package adminapi

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyway/pool"
)

const recordOf = `"driver":"soft","token_dir":"/t","pin_file":"/p","sessions":1`

func TestAMemberIsTriedBeforeItIsStored(t *testing.T) {
	h := newHouse(t, nil)
	h.refused(h.send("POST", "/admin/v1/members", `{"name":"bad","token_label":"wrong-pin",`+recordOf+`}`), 422, "misfit", "CKR_PIN_INCORRECT")
	if w := h.send("POST", "/admin/v1/members?force", `{"name":"bad","token_label":"wrong-pin",`+recordOf+`}`); !strings.Contains(w.Body.String(), `"cause":"pin_refused"`) {
		t.Errorf("%s", w.Body)
	}
	h.refused(h.send("POST", "/admin/v1/members", `{"name":"bad","token_label":"wrong-pin",`+recordOf+`}`), 422, "misfit", "before")
	h.refused(h.send("GET", "/admin/v1/members/bad", ""), 404, "not_found", "bad")

	out := h.ok("POST", "/admin/v1/members", `{"name":"m1","token_label":"m1",`+recordOf+`,"partial":true}`, 201)
	if trial, _ := out["trial"].([]any); len(trial) < 3 || out["name"] != "m1" || out["state"] == nil {
		t.Errorf("added: %v", out)
	}
	if out := h.ok("POST", "/admin/v1/members", `{"name":"m1","token_label":"m1",`+recordOf+`}`, 200); out["name"] != "m1" || out["trial"] != nil {
		t.Errorf("there already: %v", out)
	}
	h.refused(h.send("POST", "/admin/v1/members", `{"name":"m1","token_label":"m2",`+recordOf+`}`), 409, "exists", "token_label")
}

// An order goes on when whoever gave it has left, and one that is not waited for is answered at once.
func TestOrdersOutliveTheirSender(t *testing.T) {
	h := newHouse(t, nil)
	ctx, leave := context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		h.send("POST", "/admin/v1/members", `{"name":"m1","token_label":"slow",`+recordOf+`}`, func(r *http.Request) { *r = *r.WithContext(ctx) })
	}()
	h.until("m1", StateTrying)
	leave()
	time.Sleep(10 * time.Millisecond) // a trial that ended with its sender would have done so
	h.until("m1", StateTrying)
	close(h.hold)
	<-left
	h.until("m1", pool.Active)

	h.member("m2", "m2", pool.Active)
	release, started, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	name := h.busy(started, release, ended)
	if m := h.ok("POST", "/admin/v1/members/"+name+"/drain?wait=false", "", 200); m["state"] != "draining" || m["busy"] != 1.0 {
		t.Errorf("an order that is not waited for: %v", m)
	}
	if m := h.ok("DELETE", "/admin/v1/members/"+name+"?wait=false&force", "", 200); m["state"] != "draining" {
		t.Errorf("removed at once: %v", m)
	}
	close(release)
	must(t, <-ended)
	for deadline := time.Now().Add(10 * time.Second); h.send("GET", "/admin/v1/members/"+name, "").Code != 404; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was not removed")
		}
	}
	h.refused(h.send("DELETE", "/admin/v1/members/"+name, ""), 404, "not_found", name)
	h.ok("DELETE", "/admin/v1/members/"+name+"?forget_token", "", 204)
	h.refused(h.send("DELETE", "/admin/v1/members/"+name+"?forget_token", ""), 404, "not_found", "no token of that name")
}
