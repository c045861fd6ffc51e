//go:build !race

package gateway

import "testing"

// budgets are allocations of one request through the handler, with a token that allocates nothing and no telemetry installed: the
// context with its deadline and timer 5, the span 3, the client for the pool 2, the token 2, the cache's look-up 1; of sign
// the key's name and the hash as strings and the signature in DER; of wrap the name.
var budgets = map[string]float64{"sign": 15, "wrap": 13}

func TestAllocationsAreWithinTheirBudgets(t *testing.T) {
	s := freeServer(t)
	for op, path := range map[string]string{"sign": "/api/v1/keys/k-sign/sign", "wrap": "/api/v1/keys/k-wrap/wrap"} {
		body := []byte(bodies[op])
		h := s.prepared("POST", path, body)
		run := func() {
			h.Request.SetBody(body)
			h.Request.Header.Set("Authorization", "Bearer "+appToken)
			h.Response.Reset()
			s.serve(h)
			if h.Response.StatusCode() != 200 {
				t.Fatalf("%s: %d %s", op, h.Response.StatusCode(), h.Response.Body())
			}
			h.Conn().(*conn).finish()
		}
		for range 100 {
			run()
			s.cache.cache.Wait() // it takes what it is given a little later
		}
		if n := testing.AllocsPerRun(1000, run); n > budgets[op] {
			t.Errorf("%s: %g allocations, its budget is %g", op, n, budgets[op])
		} else {
			t.Logf("%s: %g allocations of %g", op, n, budgets[op])
		}
	}
}
