package gateway

import (
	"context"
	"time"

	"github.com/valyala/fasthttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "keyway/gateway"

// metrics holds the gateway's instruments. Attributes follow the semantic conventions for HTTP servers (OpenTelemetry
// semconv 1.37), less what tells of a request's content: of a path there is the route, without the key's name.
type metrics struct {
	tracer   trace.Tracer
	duration metric.Float64Histogram
	scheme   string
}

// measure is what a route is measured with, made beforehand.
type measure struct {
	span    string
	start   []trace.SpanStartOption
	success []metric.RecordOption
	failure map[Kind][]metric.RecordOption
}

func newMetrics(scheme string) metrics {
	// An error here means a name that is no instrument's; the instrument is then one that does nothing.
	d, _ := otel.Meter(scope).Float64Histogram("http.server.request.duration", metric.WithUnit("s"), metric.WithDescription("Duration of HTTP server requests."))
	return metrics{tracer: otel.Tracer(scope), duration: d, scheme: scheme}
}

// prepare makes a route's measure.
func (m *metrics) prepare(r *Route) {
	r.measure = measure{
		span:    r.Method + " " + r.Path,
		start:   []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(m.request(r.Method, r)...)},
		success: m.response(r.Method, r, nil),
		failure: map[Kind][]metric.RecordOption{},
	}
	for k := range kinds {
		r.failure[k] = m.response(r.Method, r, &Error{Kind: k})
	}
}

// request returns the attributes of a request's span and measurement.
func (m *metrics) request(method string, r *Route) []attribute.KeyValue {
	a := []attribute.KeyValue{attribute.String("http.request.method", method), attribute.String("url.scheme", m.scheme)}
	if r.Method != "" {
		a = append(a, attribute.String("http.route", r.Path))
	}
	return a
}

func (m *metrics) response(method string, r *Route, e *Error) []metric.RecordOption {
	a := append(m.request(method, r), attribute.Int("http.response.status_code", status(e)))
	if e != nil {
		a = append(a, attribute.String("error.type", string(e.Kind)))
	}
	return []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(a...))}
}

func status(e *Error) int {
	if e == nil {
		return fasthttp.StatusOK
	}
	return kinds[e.Kind].status
}

// method is a request's method as an attribute: one of a few.
func method(h *fasthttp.RequestHeader) string {
	switch m := string(h.Method()); m {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return m
	}
	return "_OTHER"
}

// carrier lets a propagator read fasthttp's request headers.
type carrier struct{ h *fasthttp.RequestHeader }

func (c carrier) Get(k string) string { return string(c.h.Peek(k)) }
func (c carrier) Set(k, v string)     { c.h.Set(k, v) }
func (c carrier) Keys() []string      { return nil } // no propagator in use asks

// begin begins a request's span, in the trace that its headers name.
func (m *metrics) begin(ctx context.Context, h *fasthttp.RequestHeader, r *Route) (context.Context, trace.Span) {
	if len(h.Peek("Traceparent")) > 0 {
		ctx = otel.GetTextMapPropagator().Extract(ctx, carrier{h})
	}
	if r.start != nil && !h.IsHead() {
		return m.tracer.Start(ctx, r.span, r.start...)
	}
	name := method(h)
	a := trace.WithAttributes(m.request(name, r)...)
	if name == "_OTHER" {
		name = "HTTP"
	}
	if r.Method != "" {
		name += " " + r.Path
	}
	return m.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), a)
}

// end ends a request's span, nil where there is none, and records how long it took. e is nil for success. By
// the conventions a client's mistake is no error of the server's span.
func (m *metrics) end(ctx context.Context, span trace.Span, h *fasthttp.RequestHeader, r *Route, e *Error, took time.Duration) {
	if span != nil {
		if span.IsRecording() {
			span.SetAttributes(attribute.Int("http.response.status_code", status(e)))
			if e != nil {
				span.SetAttributes(attribute.String("error.type", string(e.Kind)))
				if status(e) >= 500 {
					span.SetStatus(codes.Error, "")
				}
			}
		}
		span.End()
	}
	o := r.success
	switch {
	case r.start == nil || h.IsHead():
		o = m.response(method(h), r, e)
	case e != nil:
		o = r.failure[e.Kind]
	}
	m.duration.Record(ctx, took.Seconds(), o...)
}
