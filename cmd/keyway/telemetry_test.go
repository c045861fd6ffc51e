package main

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
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
