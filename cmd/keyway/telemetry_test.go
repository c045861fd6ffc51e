package main

import (
	"context"
	"log/slog"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"keyway/hsm"
	"keyway/pool"
)

// What a token does takes a few milliseconds, so the buckets must tell 2 ms from 4 ms.
func TestDurationsAreMeasuredInBucketsOfSeconds(t *testing.T) {
	tel, err := startTelemetry(context.Background(), telemetryConfig{ServiceName: "test"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.Close(context.Background()) }()
	for _, name := range []string{"http.server.request.duration", "hsm.operation.duration", "hsm.operation.total_duration"} {
		h, err := otel.Meter("test").Float64Histogram(name, metric.WithUnit("s"))
		if err != nil {
			t.Fatal(err)
		}
		h.Record(context.Background(), 0.004)
	}
	w := httptest.NewRecorder()
	tel.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, name := range []string{"http_server_request_duration_seconds", "hsm_operation_duration_seconds", "hsm_operation_total_duration_seconds"} {
		for le, want := range map[string]string{"0.0025": "0", "0.005": "1"} {
			found := false
			for line := range strings.Lines(w.Body.String()) {
				if strings.HasPrefix(line, name+"_bucket{") && strings.Contains(line, `le="`+le+`"`) {
					found = true
					if !strings.HasSuffix(strings.TrimSpace(line), "} "+want) {
						t.Errorf("bucket %s of %s: %s, want %s", le, name, line, want)
					}
				}
			}
			if !found {
				t.Errorf("%s has no bucket le=%q", name, le)
			}
		}
	}
}

// A latched member does nothing until a person comes, so it must be possible to alert on it.
func TestMembersStatesAreMetrics(t *testing.T) {
	tel, err := startTelemetry(context.Background(), telemetryConfig{ServiceName: "test"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.Close(context.Background()) }()
	p, err := pool.New(pool.Config{Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	open := func(context.Context) (hsm.Token, error) { return nil, hsm.ErrClosed }
	if err := p.Add(pool.MemberConfig{Name: "m", Open: open, Latched: "a wrong PIN"}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	tel.metrics.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	// Only instruments that their callback was registered for are shown.
	for _, name := range []string{
		"pool_breaker_state", "pool_handle_evictions_total", "pool_handle_loads_total", "pool_handles", "pool_key_unusable_total", "pool_member_hung_total",
		"pool_member_respawns_total", "pool_member_slow_total", "pool_overloaded_total", "pool_queue_length", "pool_retries_total", "pool_sessions",
	} {
		if !strings.Contains(w.Body.String(), "\n"+name+"{") {
			t.Errorf("%s is not shown", name)
		}
	}
	got := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if _, labels, ok := strings.Cut(line, "pool_member_state{"); ok {
			_, state, _ := strings.Cut(labels, `state="`)
			state, value, _ := strings.Cut(state, `"`)
			got[state] = value[len(value)-2 : len(value)-1]
		}
	}
	want := map[string]string{"joining": "0", "active": "0", "ejected": "0", "draining": "0", "drained": "0", "latched": "1"}
	if !maps.Equal(got, want) {
		t.Errorf("states %v, want %v, of\n%s", got, want, w.Body)
	}
}
