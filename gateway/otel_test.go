package gateway

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"keyway/hsm"
)

// observed is a gate whose spans and measurements stay in memory.
func observed(t *testing.T) (*gate, *tracetest.InMemoryExporter, func() metricdata.ResourceMetrics) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	reader := sdkmetric.NewManualReader()
	mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	oldT, oldM, oldP := otel.GetTracerProvider(), otel.GetMeterProvider(), otel.GetTextMapPropagator()
	otel.SetTracerProvider(tp)
	otel.SetMeterProvider(mp)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	t.Cleanup(func() {
		otel.SetTracerProvider(oldT)
		otel.SetMeterProvider(oldM)
		otel.SetTextMapPropagator(oldP)
	})
	g := newGate(t, nil)
	return g, spans, func() (out metricdata.ResourceMetrics) {
		t.Helper()
		if err := reader.Collect(context.Background(), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func attributes(kv []attribute.KeyValue) string {
	s := attribute.NewSet(kv...)
	return s.Encoded(attribute.DefaultEncoder())
}

func TestEachRequestIsOneServerSpan(t *testing.T) {
	g, spans, _ := observed(t)
	g.crypto.before = func(ctx context.Context, op hsm.Op) error {
		if !trace.SpanContextFromContext(ctx).IsValid() {
			t.Error("the pool does not get the span")
		}
		if string(op.In) == "fail" {
			return errBoom
		}
		return nil
	}
	for _, c := range []struct {
		do   func()
		name string
		want string
		code codes.Code
	}{
		{func() { g.ok("k-mac", "mac", `{"message":"aGk="}`) }, "POST /api/v1/keys/{key}/mac", "http.request.method=POST,http.response.status_code=200,http.route=/api/v1/keys/{key}/mac,url.scheme=http", codes.Unset},
		{func() { g.key("k-mac", "mac", `{}`) }, "POST /api/v1/keys/{key}/mac", "error.type=malformed,http.request.method=POST,http.response.status_code=400,http.route=/api/v1/keys/{key}/mac,url.scheme=http", codes.Unset},
		{func() { g.key("k-mac", "mac", `{"message":"ZmFpbA=="}`) }, "POST /api/v1/keys/{key}/mac", "error.type=internal,http.request.method=POST,http.response.status_code=500,http.route=/api/v1/keys/{key}/mac,url.scheme=http", codes.Error},
		{func() { g.send("HEAD", "/healthz", "") }, "HEAD /healthz", "http.request.method=HEAD,http.response.status_code=200,http.route=/healthz,url.scheme=http", codes.Unset},
		{func() { g.send("GET", "/nowhere/secret", "") }, "GET", "error.type=not_found,http.request.method=GET,http.response.status_code=404,url.scheme=http", codes.Unset},
		{func() { g.send("BREW", "/healthz", "") }, "HTTP", "error.type=malformed,http.request.method=_OTHER,http.response.status_code=400,url.scheme=http", codes.Unset},
		{func() {
			g.results(`{"operations":[{"op":"mac","key":"k-mac","message":"aGk="},{"op":"mac","key":"k-mac","message":"ZmFpbA=="}]}`)
		}, "POST /api/v1/batch",
			"http.request.method=POST,http.response.status_code=200,http.route=/api/v1/batch,url.scheme=http", codes.Unset},
	} {
		spans.Reset()
		c.do()
		waitFor(t, "the span", func() bool { return len(spans.GetSpans()) > 0 })
		got := spans.GetSpans()
		if len(got) != 1 {
			t.Fatalf("%s: %d spans", c.name, len(got))
		}
		s := got[0]
		if s.Name != c.name || s.SpanKind != trace.SpanKindServer || attributes(s.Attributes) != attributesOf(c.want) || s.Status.Code != c.code || s.Status.Description != "" {
			t.Errorf("span %q (%s) %s, status %v; want %q %s, %v", s.Name, s.SpanKind, attributes(s.Attributes), s.Status, c.name, c.want, c.code)
		}
	}
}

// attributesOf brings a list of attributes into the encoder's order.
func attributesOf(s string) string {
	var kv []attribute.KeyValue
	for _, p := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(p, "=")
		kv = append(kv, attribute.String(k, v))
	}
	return attributes(kv)
}

func TestATraceGoesOn(t *testing.T) {
	g, spans, _ := observed(t)
	get := func(traceparent string) tracetest.SpanStub {
		t.Helper()
		spans.Reset()
		req, _ := http.NewRequest("GET", g.url+"/healthz", nil)
		req.Header.Set("traceparent", traceparent)
		res, err := g.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		waitFor(t, "the span", func() bool { return len(spans.GetSpans()) > 0 })
		return spans.GetSpans()[0]
	}
	if s := get("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"); s.SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || s.Parent.SpanID().String() != "b7ad6b7169203331" || !s.Parent.IsRemote() {
		t.Errorf("the span is in trace %s under %s", s.SpanContext.TraceID(), s.Parent.SpanID())
	}
	for _, bad := range []string{"nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01", ""} {
		if s := get(bad); s.Parent.IsValid() {
			t.Errorf("traceparent %q has the parent %s", bad, s.Parent.SpanID())
		}
	}
}

func TestEachRequestIsMeasured(t *testing.T) {
	g, _, collect := observed(t)
	for range 3 {
		g.ok("k-mac", "mac", `{"message":"aGk="}`)
	}
	g.key("k-secretname", "mac", `{"message":"aGk="}`)
	g.send("GET", "/secretpath", "")
	g.exchange("nonsense\r\n\r\n")
	var got map[string]uint64
	waitFor(t, "measurements", func() bool {
		got = map[string]uint64{}
		n := uint64(0)
		for _, sm := range collect().ScopeMetrics {
			for _, m := range sm.Metrics {
				if m.Name != "http.server.request.duration" {
					continue
				}
				if m.Unit != "s" {
					t.Errorf("measured in %q", m.Unit)
				}
				for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
					got[p.Attributes.Encoded(attribute.DefaultEncoder())] = p.Count
					n += p.Count
				}
			}
		}
		return n == 6
	})
	for k, n := range map[string]uint64{
		"http.request.method=POST,http.response.status_code=200,http.route=/api/v1/keys/{key}/mac,url.scheme=http":                      3,
		"error.type=not_found,http.request.method=POST,http.response.status_code=404,http.route=/api/v1/keys/{key}/mac,url.scheme=http": 1,
		"error.type=not_found,http.request.method=GET,http.response.status_code=404,url.scheme=http":                                    1,
	} {
		if got[attributesOf(k)] != n {
			t.Errorf("%s: %d, want %d of %v", k, got[attributesOf(k)], n, got)
		}
	}
}

// One line for each failed request, and for each failed operation of a batch; none for what succeeds.
func TestEachFailureIsOneLine(t *testing.T) {
	g := newGate(t, nil)
	line := func(a answer, parts ...string) {
		t.Helper()
		id, _ := a.body["request_id"].(string)
		n, last := 0, ""
		for _, l := range strings.Split(g.log.String(), "\n") {
			if id != "" && strings.Contains(l, id) {
				n, last = n+1, l
			}
		}
		if n != 1 {
			t.Errorf("%s: %d lines", a.raw, n)
		}
		for _, p := range parts {
			if !strings.Contains(last, p) {
				t.Errorf("the line %q has no %s", last, p)
			}
		}
	}
	g.ok("k-mac", "mac", `{"message":"aGk="}`)
	if s := g.log.String(); s != "" {
		t.Errorf("a success is logged: %s", s)
	}
	line(g.key("k-mac", "mac", `{}`), "level=INFO", "kind=malformed", "client=app", "route=/api/v1/keys/{key}/mac")
	line(g.as("kw_x", func() answer { return g.key("k-mac", "mac", `{}`) }), "level=INFO", "kind=unauthenticated")
	line(g.key("k-none", "mac", `{"message":"aGk="}`), "level=INFO", "kind=not_found", "cause=")
	g.crypto.before = func(context.Context, hsm.Op) error { return context.DeadlineExceeded }
	line(g.key("k-mac", "mac", `{"message":"aGk="}`), "level=WARN", "kind=deadline", "cause=")
	line(g.send("POST", "/api/v1/batch", `{"operations":[{"op":"mac","key":"k-mac","message":"aGk="}]}`).first(), "level=WARN", "kind=deadline", "batch /api/v1/keys/{key}/mac", "client=app")
	g.crypto.before = func(context.Context, hsm.Op) error { return errBoom }
	line(g.key("k-mac", "mac", `{"message":"aGk="}`), "level=ERROR", "kind=internal", "cause=boom")
}

// Nothing of what clients send or get, and no token, shows in logs, spans or measurements, in any spelling; nor do the names of keys
// in measurements.
func TestNothingSecretIsObserved(t *testing.T) {
	g, spans, collect := observed(t)
	secrets := []string{"PLAINTEXTmarkerPLAINTEXT", "AADmarkerAADmarkerAADmar", "MESSAGEmarkerMESSAGEmark", "TOKENmarkerTOKENmarkerTO", "FIELDmarkerFIELDmarkerFI", "PATHmarkerPATHmarkerPATH"}
	p, aad, msg := b64(secrets[0]), b64(secrets[1]), b64(secrets[2])
	for range 2 {
		w := g.ok("k-wrap", "wrap", `{"plaintext_key":%q,"aad":%q}`, p, aad)["wrapped"]
		e := g.ok("k-wrap", "encrypt", `{"plaintext":%q,"aad":%q}`, p, aad)["ciphertext"]
		g.ok("k-wrap", "unwrap", `{"wrapped":%q,"aad":%q}`, w, aad)
		g.ok("k-wrap", "decrypt", `{"ciphertext":%q,"aad":%q}`, e, aad)
		g.key("k-wrap", "decrypt", fmt.Sprintf(`{"ciphertext":%q}`, e))
		d := g.ok("k-wrap", "datakey", `{"plaintext":true}`)
		sig := g.ok("k-sign", "sign", `{"message":%q}`, msg)["signature"]
		secrets = append(secrets, string(unb64(t, d["plaintext_key"])), string(unb64(t, sig)))
		for _, body := range []string{
			`{"plaintext_key":"` + p + `","` + secrets[4] + `":"` + secrets[0] + `"}`, `{"plaintext_key":"` + p + `x"}`, `{"plaintext_key":` + secrets[0] + `}`, `{"plaintext_key":"` + secrets[0] + `!"}`,
			`{"plaintext_key":"` + p + `","format":"` + secrets[4] + `"}`, `{"plaintext_key":"` + p + `","version":9}`, secrets[0], `{"plaintext_key":"` + p + `","format":"aes-kw","aad":"` + aad + `"}`,
		} {
			g.key("k-wrap", "wrap", body)
			g.send("POST", "/api/v1/batch", `{"operations":[{"op":"wrap","key":"k-wrap",`+strings.TrimPrefix(body, "{")+`]}`)
			g.send("POST", "/api/v1/batch", `{"operations":[{"op":"`+secrets[4]+`","id":"`+secrets[0]+`","key":"`+secrets[5]+`"}]}`)
		}
		g.key("k-sign", "sign", fmt.Sprintf(`{"message":%q,"digest":%q}`, msg, msg))
		g.send("POST", "/"+secrets[5], p)
		g.send("POST", keysPrefix+secrets[5]+"/sign?"+secrets[5], p)
		g.send("POST", keysPrefix+"k-sign/"+secrets[5], p)
		g.as(secrets[3], func() answer { return g.key("k-sign", "sign", `{"message":"`+msg+`"}`) })
		g.exchange("POST /" + secrets[5] + " HTTP/1.1\r\nAuthorization: Bearer " + appToken + "\r\nX " + secrets[0] + "\r\n\r\n" + p)
		g.exchange("POST /" + secrets[5] + " HTTP/9" + secrets[0] + "\r\nAuthorization: Bearer " + appToken + "\r\n\r\n" + p)
		g.exchange(signLine + "Host: x\r\nAuthorization: Bearer " + appToken + "\r\nContent-Length: x" + secrets[0] + "\r\n\r\n" + p)
		g.exchange(signLine + "Host: x\r\nAuthorization: Bearer " + appToken + "\r\nTransfer-Encoding: " + secrets[0] + "\r\n\r\n" + p)
		g.exchange(signLine + "Host: x\r\nAuthorization: Bearer " + appToken + "\r\nTransfer-Encoding: chunked\r\n\r\n" + secrets[0])
		// The second time around everything that touches the token panics or fails.
		g.crypto.before = func(_ context.Context, op hsm.Op) error {
			if len(op.In)%2 == 0 {
				panic(string(op.In))
			}
			return fmt.Errorf("%w", errBoom)
		}
		g.key("k-sign", "sign", `{"message":"`+msg+`"}`)
		g.key("k-wrap", "wrap", `{"plaintext_key":"`+p+`"}`)
		g.key("k-wrap", "encrypt", `{"plaintext":"`+p+`","aad":"`+aad+`"}`)
		g.crypto.before = nil
	}
	secrets = append(secrets, appToken)
	var measured bytes.Buffer
	if err := json.NewEncoder(&measured).Encode(collect()); err != nil {
		t.Fatal(err)
	}
	for _, sm := range collect().ScopeMetrics { // attribute sets do not show in JSON
		for _, m := range sm.Metrics {
			if h, ok := m.Data.(metricdata.Histogram[float64]); ok {
				for _, p := range h.DataPoints {
					fmt.Fprintln(&measured, p.Attributes.Encoded(attribute.DefaultEncoder()))
				}
			}
		}
	}
	var traced strings.Builder
	for _, s := range spans.GetSpans() {
		fmt.Fprintln(&traced, s.Name, attributes(s.Attributes), s.Status.Description, s.Events, s.Links, attributes(s.Resource.Attributes()))
	}
	for where, text := range map[string]string{"log": g.log.String(), "spans": traced.String(), "measurements": measured.String()} {
		if len(text) < 1000 {
			t.Errorf("the %s has only %d bytes: does the test still see it?", where, len(text))
		}
		for _, s := range secrets {
			for _, form := range []string{s, base64.StdEncoding.EncodeToString([]byte(s))[:len(s)/3*4], base64.RawURLEncoding.EncodeToString([]byte(s))[:len(s)/3*4], hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))), fmt.Sprint([]byte(s))} {
				if i := strings.Index(text, form); i >= 0 {
					t.Errorf("the %s holds %q: …%.200q", where, form, text[max(0, i-100):])
				}
			}
		}
	}
	for _, name := range []string{"k-wrap", "k-sign"} {
		if strings.Contains(measured.String(), name) || strings.Contains(traced.String(), name) {
			t.Errorf("%s is named where there should be no names of keys", name)
		}
	}
}
