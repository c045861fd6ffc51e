package main

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is a small OTLP/HTTP receiver.
type collector struct {
	*httptest.Server
	mu      sync.Mutex
	metrics map[string]*metrics.Metric // the last of each name
	spans   []*traces.Span
	service map[string]bool // service.name of the resources
	headers []string        // Authorization
	wrong   []string
}

func newCollector(t *testing.T) *collector {
	c := &collector{metrics: map[string]*metrics.Metric{}, service: map[string]bool{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			c.wrong = append(c.wrong, err.Error())
			return
		}
		body = z
	}
	b, err := io.ReadAll(body)
	if err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
		c.wrong = append(c.wrong, fmt.Sprintf("%s: %q, %v", r.URL.Path, r.Header.Get("Content-Type"), err))
	}
	c.headers = append(c.headers, r.Header.Get("Authorization"))
	var answer proto.Message
	switch r.URL.Path {
	case "/v1/metrics":
		var q metricspb.ExportMetricsServiceRequest
		err = proto.Unmarshal(b, &q)
		for _, rm := range q.GetResourceMetrics() {
			c.service[attr(rm.GetResource().GetAttributes(), "service.name")] = true
			for _, sm := range rm.GetScopeMetrics() {
				for _, m := range sm.GetMetrics() {
					c.metrics[m.GetName()] = m
				}
			}
		}
		answer = &metricspb.ExportMetricsServiceResponse{}
	case "/v1/traces":
		var q tracepb.ExportTraceServiceRequest
		err = proto.Unmarshal(b, &q)
		for _, rs := range q.GetResourceSpans() {
			c.service[attr(rs.GetResource().GetAttributes(), "service.name")] = true
			for _, ss := range rs.GetScopeSpans() {
				c.spans = append(c.spans, ss.GetSpans()...)
			}
		}
		answer = &tracepb.ExportTraceServiceResponse{}
	default:
		err = fmt.Errorf("%s is no path of OTLP", r.URL.Path)
	}
	if err != nil {
		c.wrong = append(c.wrong, err.Error())
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	out, _ := proto.Marshal(answer)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(out)
}

func attr(all []*commonpb.KeyValue, name string) string {
	for _, a := range all {
		if a.GetKey() == name {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

func (c *collector) metric(name string) *metrics.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metrics[name]
}

func TestMetricsAndTracesReachACollector(t *testing.T) {
	c := newCollector(t)
	dir := newDevDir(t, onEmbedded)
	config := nodeConfig(t, onEmbedded, dir, plainNode+"\ntelemetry: {otlp_endpoint: '"+c.URL+"/', sample_ratio: 0, service_name: keyway-test}\n")
	r := startServe(t, dir, config, "OTEL_METRIC_EXPORT_INTERVAL=100", "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Basic%20collector")
	r.readyz()
	for range 5 {
		r.ok("demo-sign/sign", signBody)
	}
	// One request of a trace that its caller has begun and samples; sample_ratio leaves out all others.
	const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	req, err := http.NewRequest(http.MethodPost, r.url+"/api/v1/keys/demo-sign/sign", strings.NewReader(signBody))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	req.Header.Set("Traceparent", "00-"+traceID+"-"+parent+"-01")
	res, err := r.http.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	_ = res.Body.Close()
	signs := func() (n uint64) {
		for _, p := range c.metric("hsm.operation.duration").GetHistogram().GetDataPoints() {
			if attr(p.GetAttributes(), "hsm.operation") == "sign" && attr(p.GetAttributes(), "hsm.pool") == "default" {
				n += p.GetCount()
			}
		}
		return n
	}
	r.within(20*time.Second, "telling the collector of six signatures", func() bool { return signs() == 6 })
	if m := c.metric("hsm.operation.duration"); m.GetUnit() != "s" {
		t.Errorf("unit %q", m.GetUnit())
	}
	if c.metric("pool.breaker.state") == nil || c.metric("http.server.request.duration") == nil {
		t.Errorf("gauges or the gateway's durations are missing")
	}
	r.stop(syscall.SIGTERM) // which sends the spans that wait

	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrong) > 0 {
		t.Error(c.wrong)
	}
	if len(c.service) != 1 || !c.service["keyway-test"] {
		t.Errorf("service names %v", c.service)
	}
	if slices.ContainsFunc(c.headers, func(h string) bool { return h != "Basic collector" }) {
		t.Errorf("headers %q", c.headers)
	}
	server := 0
	for _, s := range c.spans {
		if fmt.Sprintf("%x", s.GetTraceId()) != traceID {
			t.Errorf("span %s of trace %x, which nobody sampled", s.GetName(), s.GetTraceId())
		}
		if s.GetKind() == traces.Span_SPAN_KIND_SERVER {
			server++
			if fmt.Sprintf("%x", s.GetParentSpanId()) != parent || !strings.Contains(s.GetName(), "{key}") {
				t.Errorf("span %q has parent %x", s.GetName(), s.GetParentSpanId())
			}
		}
		if strings.Contains(s.String(), "demo-sign") || strings.Contains(s.String(), r.token) {
			t.Errorf("a span names the key or the token: %s", s)
		}
	}
	if server != 1 {
		t.Errorf("%d spans of a server, want 1", server)
	}
}

// A collector that is away costs nothing but a line in the log, and does not hold up the end.
func TestACollectorThatIsAway(t *testing.T) {
	dir := newDevDir(t, onEmbedded)
	config := nodeConfig(t, onEmbedded, dir, plainNode+"\ntelemetry: {otlp_endpoint: 'http://127.0.0.1:1'}\n")
	r := startServe(t, dir, config, "OTEL_METRIC_EXPORT_INTERVAL=100")
	r.readyz()
	r.ok("demo-sign/sign", signBody)
	r.stop(syscall.SIGTERM)
	if !strings.Contains(r.log.String(), "the last telemetry could not be sent") {
		t.Errorf("nobody was told: %s", r.log)
	}
}

var (
	documented = regexp.MustCompile("(?m)^\\| `([a-z_]+)`")
	exposed    = regexp.MustCompile(`(?m)^# TYPE ((?:http_server|hsm|pool)_[a-z_]+) `)
)

// What /metrics shows is what docs/ops/metrics.md promises, name by name.
func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "ops", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	var promised []string
	for _, m := range documented.FindAllStringSubmatch(string(b), -1) {
		promised = append(promised, m[1])
	}
	for _, name := range []string{ // what the design asks for by name
		"http_server_request_duration_seconds", "hsm_operation_duration_seconds", "hsm_operation_total_duration_seconds",
		"pool_queue_length", "pool_sessions", "pool_breaker_state", "pool_handle_loads_total", "pool_handle_evictions_total",
	} {
		if !slices.Contains(promised, name) {
			t.Errorf("%s is not documented", name)
		}
	}
	r := startDev(t, onEmbedded, newDevDir(t, onEmbedded))
	r.ok("demo-sign/sign", signBody)
	text := string(get(t, r.admin+"/metrics"))
	var shown []string
	for _, m := range exposed.FindAllStringSubmatch(text, -1) {
		shown = append(shown, m[1])
	}
	for _, name := range promised {
		if !slices.Contains(shown, name) {
			t.Errorf("%s is documented and not there", name)
		}
	}
	for _, name := range shown {
		if !slices.Contains(promised, name) {
			t.Errorf("%s is there and not documented", name)
		}
	}
	for _, want := range []string{
		`hsm_operation_duration_seconds_count{hsm_member="m\d",hsm_operation="sign",hsm_pool="default"[^}]*} 1`,
		`hsm_operation_total_duration_seconds_count{hsm_member="m\d",hsm_operation="sign",hsm_pool="default"[^}]*} 1`,
		`pool_handle_loads_total{hsm_member="m\d",hsm_pool="default"[^}]*} 1`,
		`pool_sessions{hsm_member="m1",hsm_pool="default"[^}]*state="idle"} \d`,
		`pool_breaker_state{hsm_member="m3",hsm_pool="default"[^}]*} 0`,
		`http_server_request_duration_seconds_count{[^}]*http_response_status_code="200",http_route="/api/v1/keys/{key}/sign"[^}]*} 1`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	if strings.Contains(text, "demo-sign") {
		t.Error("a metric names a key")
	}
}
