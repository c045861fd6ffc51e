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

// metrics holds the gateway's instruments.
type metrics struct {
	tracer   trace.Tracer
	duration metric.Float64Histogram
}

// measure is a route's attribute sets, made beforehand: by kind of failure, "" for none.
type measure map[Kind]metric.MeasurementOption

func newMetrics() metrics {
	// An error here means a name that is no instrument's; the instrument is then one that does nothing.
	d, _ := otel.Meter(scope).Float64Histogram("http.server.request.duration", metric.WithUnit("s"))
	return metrics{tracer: otel.Tracer(scope), duration: d}
}

func newMeasure(r *Route) measure {
	m := measure{}
	set := func(k Kind, status int) {
		a := []attribute.KeyValue{attribute.String("http.request.method", r.Method), attribute.String("http.route", r.Path), attribute.Int("http.response.status_code", status)}
		if k != "" {
			a = append(a, attribute.String("error.type", string(k)))
		}
		m[k] = metric.WithAttributeSet(attribute.NewSet(a...))
	}
	set("", 200)
	for k, v := range kinds {
		set(k, v.status)
	}
	return m
}

// headers lets the propagator read and write fasthttp's request headers.
type headers struct{ h *fasthttp.RequestHeader }

func (c headers) Get(k string) string { return string(c.h.Peek(k)) }
func (c headers) Set(k, v string)     { c.h.Set(k, v) }
func (c headers) Keys() []string      { return nil } // no propagator in use asks

// span begins a request's span, and returns how it ends: with its duration measured.
func (m *metrics) span(ctx context.Context, h *fasthttp.RequestCtx, r *Route) (context.Context, func(*Route, *Error, time.Duration)) {
	if len(h.Request.Header.Peek("traceparent")) > 0 {
		ctx = otel.GetTextMapPropagator().Extract(ctx, headers{&h.Request.Header})
	}
	ctx, span := m.tracer.Start(ctx, r.Path, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, func(r *Route, e *Error, took time.Duration) {
		var k Kind
		if e != nil {
			k = e.Kind
			if span.IsRecording() {
				span.SetStatus(codes.Error, string(k))
			}
		}
		span.End()
		m.duration.Record(ctx, took.Seconds(), r.metric[k])
	}
}
