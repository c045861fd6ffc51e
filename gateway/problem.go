package gateway

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"time"
)

// retryAfter is when to come back: whole seconds, rounded up; 0 for a failure of a kind that does not say.
func (e *Error) retryAfter() int {
	if e.RetryAfter <= 0 && !kinds[e.Kind].again {
		return 0
	}
	return max(1, int(math.Ceil(e.RetryAfter.Seconds())))
}

// appendProblem appends an RFC 9457 problem document. A failure of ours tells no detail, only under
// which id the operators find it.
func appendProblem(b []byte, e *Error, requestID string) []byte {
	k := kinds[e.Kind]
	b = append(b, `{"type":"urn:keyway:problem:`...)
	b = append(b, e.Kind...)
	b = append(b, `","title":`...)
	b = appendString(b, k.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(k.status), 10)
	b = append(b, `,"kind":"`...)
	b = append(b, e.Kind...)
	b = append(b, `","request_id":"`...)
	b = append(b, requestID...)
	b = append(b, '"')
	if e.Kind == Internal {
		b = append(b, `,"incident_id":"`...)
		b = append(b, requestID...)
		b = append(b, '"')
	} else {
		b = append(b, `,"detail":`...)
		b = appendString(b, e.Detail)
	}
	if n := e.retryAfter(); n > 0 {
		b = append(b, `,"retry_after":`...)
		b = strconv.AppendInt(b, int64(n), 10)
	}
	return append(b, '}')
}

// requestID is unique among all requests of all processes, for practical purposes.
func (s *Server) requestID() string {
	b := make([]byte, 0, 32)
	b = append(append(b, s.runID...), '-')
	n := s.requests.Add(1)
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[n>>shift&15])
	}
	return string(b)
}

// failed writes the one line of a failed request. It has no data of the request, and of the failure only its cause.
func (s *Server) failed(ctx context.Context, id, route, client string, e *Error, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case e.Kind == Internal:
		level = slog.LevelError
	case kinds[e.Kind].status >= 500, e.Kind == Throttled:
		level = slog.LevelWarn
	}
	if !s.cfg.Log.Enabled(ctx, level) {
		return
	}
	a := make([]slog.Attr, 0, 6)
	a = append(a, slog.String("request_id", id), slog.String("route", route), slog.String("kind", string(e.Kind)), slog.Duration("took", took))
	if client != "" {
		a = append(a, slog.String("client", client))
	}
	if e.Cause != nil {
		a = append(a, slog.Any("cause", e.Cause))
	}
	s.cfg.Log.LogAttrs(ctx, level, "request failed", a...)
}
