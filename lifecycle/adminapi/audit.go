package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// ExportTrailer is the HTTP trailer after an export: "complete", or why it is not. Without it the export was cut off.
const ExportTrailer = "Keyway-Export"

// maxExport bounds how long an export may take.
const maxExport = 30 * time.Minute

// EntryPage is a page of the audit log. Next, when not null, is what to pass as after for the next page.
type EntryPage struct {
	Entries []json.RawMessage `json:"entries"`
	Next    *int64            `json:"next"`
}

// streamed is an answer that is written bit by bit.
type streamed struct {
	write func(context.Context, io.Writer) error
}

var errNoLog = problem(kindUnavailable, "this node does not sign an audit log")

// number reads a number of the query.
func (c *call) number(name string, absent int64) (int64, error) {
	s := c.r.URL.Query().Get(name)
	if s == "" {
		return absent, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, problem(kindMalformed, name+": use a number")
	}
	return n, nil
}

func (a *API) listEntries(c *call) (any, error) {
	if a.cfg.Audit == nil {
		return nil, errNoLog
	}
	after, err := c.number("after", -1)
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", defaultPage)
	if err != nil {
		return nil, err
	}
	if limit < 1 || limit > maxPage || after < -1 {
		return nil, problem(kindMalformed, fmt.Sprintf("limit: use 1 to %d; after: use the number of an entry", maxPage))
	}
	all, next, err := a.cfg.Audit.List(c.ctx, after, int(limit), c.r.URL.Query().Get("key"))
	p := EntryPage{Entries: all}
	if next >= 0 {
		p.Next = &next
	}
	return p, err
}

func (a *API) exportLog(c *call) (any, error) {
	if a.cfg.Audit == nil {
		return nil, errNoLog
	}
	from, err := c.number("from", 0)
	if err != nil {
		return nil, err
	}
	return streamed{func(ctx context.Context, w io.Writer) error { return a.cfg.Audit.Export(ctx, c.actor, from, w) }}, nil
}

// begun notices when an answer has begun, after which it cannot become a problem any more.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.Header().Set("Content-Type", "application/x-ndjson")
		b.Header().Set("Cache-Control", "no-store")
		b.Header().Set("Trailer", ExportTrailer)
	}
	return b.ResponseWriter.Write(p)
}

// stream writes an answer as it is made. What goes wrong on the way is told in the trailer.
func (a *API) stream(w http.ResponseWriter, r *http.Request, s streamed) {
	ctx, cancel := context.WithTimeout(r.Context(), maxExport)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxExport)) // where it is not possible the server's holds
	b := &begun{ResponseWriter: w}
	err := s.write(ctx, b)
	switch {
	case err == nil:
		w.Header().Set(ExportTrailer, "complete")
	case !b.yes:
		a.refuse(w, r, err)
	default:
		a.cfg.Log.ErrorContext(ctx, "an export was not finished", "error", err)
		w.Header().Set(ExportTrailer, fmt.Sprintf("%q", err.Error()))
	}
}
