package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// telemetry owns the providers of traces and metrics.
type telemetry struct {
	metrics http.Handler // Prometheus
	close   []func(context.Context) error
}

// durations gives every histogram of seconds buckets from 100 µs to 10 s. The SDK's own are for milliseconds: all that a
// token does would fall into the first one.
var durations = metric.NewView(
	metric.Instrument{Name: "*duration", Kind: metric.InstrumentKindHistogram},
	metric.Stream{Aggregation: metric.AggregationExplicitBucketHistogram{
		Boundaries: []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
	}},
)

// startTelemetry installs the providers: metrics for Prometheus always, traces and metrics by OTLP where an endpoint is named.
func startTelemetry(ctx context.Context, c telemetryConfig, log *slog.Logger) (*telemetry, error) {
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(semconv.ServiceName(c.ServiceName), semconv.ServiceVersion(version())))
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scrape, err := otelprometheus.New(otelprometheus.WithRegisterer(registry))
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	t := &telemetry{metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
	options := []metric.Option{metric.WithResource(res), metric.WithReader(scrape), metric.WithView(durations)}
	if c.OTLPEndpoint == "" {
		// Without traces nobody follows an exemplar, and looking for one costs each operation.
		options = append(options, metric.WithExemplarFilter(exemplar.AlwaysOffFilter))
	} else {
		base := strings.TrimSuffix(c.OTLPEndpoint, "/")
		push, err := otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpointURL(base+"/v1/metrics"))
		if err != nil {
			return nil, fmt.Errorf("telemetry: metrics to %s: %w", base, err)
		}
		options = append(options, metric.WithReader(metric.NewPeriodicReader(push)))
		spans, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(base+"/v1/traces"))
		if err != nil {
			return nil, fmt.Errorf("telemetry: traces to %s: %w", base, err)
		}
		tp := trace.NewTracerProvider(trace.WithResource(res), trace.WithBatcher(spans), trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(c.SampleRatio))))
		otel.SetTracerProvider(tp)
		t.close = append(t.close, tp.Shutdown)
	}
	mp := metric.NewMeterProvider(options...)
	otel.SetMeterProvider(mp)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry", "error", err) }))
	t.close = append(t.close, mp.Shutdown)
	return t, nil
}

// Close sends what is pending, within ctx.
func (t *telemetry) Close(ctx context.Context) error {
	var err error
	for _, f := range t.close {
		err = errors.Join(err, f(ctx))
	}
	return err
}

func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("use debug, info, warn or error, not %q", s)
	}
	return l, nil
}

// newLog returns a log to w. The format and the level have been validated.
func newLog(w io.Writer, c telemetryConfig) *slog.Logger {
	level, _ := parseLevel(c.LogLevel)
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
