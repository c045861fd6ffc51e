package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// result is what one script did, of the summary that k6 makes.
type result struct {
	script        string
	iterations    float64  // a second
	requests      float64  // a second
	p50, p95, p99 float64  // milliseconds
	failed, wrong float64  // requests; answers
	dropped       float64  // iterations that could not begin in time
	verified      float64  // answers that were checked and right
	crossed       []string // thresholds
}

// parseSummary reads k6's summary data. A metric that it lacks never happened.
func parseSummary(script string, b []byte) (*result, error) {
	var s struct {
		Metrics map[string]struct {
			Values     map[string]float64           `json:"values"`
			Thresholds map[string]struct{ OK bool } `json:"thresholds"`
		} `json:"metrics"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("summary of k6: %w", err)
	}
	if len(s.Metrics) == 0 {
		return nil, fmt.Errorf("summary of k6: there are no metrics in it")
	}
	r := &result{script: script}
	for _, v := range []struct {
		to           *float64
		metric, stat string
	}{
		{&r.iterations, "iterations", "rate"}, {&r.requests, "http_reqs", "rate"},
		{&r.p50, "http_req_duration", "med"}, {&r.p95, "http_req_duration", "p(95)"}, {&r.p99, "http_req_duration", "p(99)"},
		{&r.failed, "http_req_failed", "passes"}, // of a rate that counts failures, these are the failures
		{&r.wrong, "answers_wrong", "count"}, {&r.dropped, "dropped_iterations", "count"}, {&r.verified, "answers_verified", "count"},
	} {
		*v.to = s.Metrics[v.metric].Values[v.stat]
	}
	for name, m := range s.Metrics {
		for t, kept := range m.Thresholds {
			if !kept.OK {
				r.crossed = append(r.crossed, name+" "+t)
			}
		}
	}
	slices.Sort(r.crossed)
	return r, nil
}

// table prints the results, one line each.
func table(w io.Writer, results []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "script\titerations/s\trequests/s\tp50 ms\tp95 ms\tp99 ms\tfailed\twrong\tdropped\tverified\t")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t\n",
			r.script, r.iterations, r.requests, r.p50, r.p95, r.p99, r.failed, r.wrong, r.dropped, r.verified)
	}
	_ = t.Flush()
}
