package audit

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// maxFindings is how many findings of each kind a report holds; it counts them all.
const maxFindings = 200

// Finding is one thing a reader must know.
type Finding struct {
	Check Check  `json:"check"`
	Entry int64  `json:"entry"` // its sequence number; -1 when it is about no single entry
	Line  int64  `json:"line"`  // of the file, from 1 on
	What  string `json:"what"`
	Means string `json:"means"`
}

// Report is what came of the verification of a bundle.
type Report struct {
	Verified bool      `json:"verified"`
	Origin   Origin    `json:"origin"`
	Made     time.Time `json:"made"`
	From     int64     `json:"from"` // the first entry
	Size     int64     `json:"size"` // of the log
	Entries  int64     `json:"entries"`
	First    Time      `json:"first_time_ms"`
	Last     Time      `json:"last_time_ms"`
	// Checkpoints is how many there were; LastCheckpoint is the one that speaks for the whole log.
	Checkpoints    int64    `json:"checkpoints"`
	LastCheckpoint *Vouched `json:"last_checkpoint"`
	// Earlier is the size of the log the reader saw before; -1 when none was given.
	Earlier int64 `json:"earlier_size"`
	Facts   int64 `json:"state_objects"`
	// StateDigest stands for the state after the last entry; a later partial export is compared with it.
	StateDigest   string           `json:"state_digest"`
	Actions       map[Action]int64 `json:"actions"`
	Failures      []Finding        `json:"failures"`
	FailuresTotal int64            `json:"failures_total"`
	Notices       []Finding        `json:"notices"`
	NoticesTotal  int64            `json:"notices_total"`
	// NotChecked says what this verification says nothing about.
	NotChecked []string `json:"not_checked"`
}

// Vouched is a checkpoint and who signed it.
type Vouched struct {
	Size    int64       `json:"size"`
	Root    string      `json:"root"` // Base64, as in the note
	Note    string      `json:"note"` // as it was signed: what to keep and to give as the earlier checkpoint next time
	Good    []Signature `json:"good"`
	Bad     []Signature `json:"bad"`
	Unknown []Signature `json:"unknown"`
}

func (r *Report) fail(c Check, entry, line int64, format string, a ...any) {
	r.FailuresTotal++
	if len(r.Failures) < maxFindings {
		r.Failures = append(r.Failures, Finding{c, entry, line, fmt.Sprintf(format, a...), meanings[c]})
	}
}

func (r *Report) notice(c Check, entry, line int64, format string, a ...any) {
	r.NoticesTotal++
	if len(r.Notices) < maxFindings {
		r.Notices = append(r.Notices, Finding{c, entry, line, fmt.Sprintf(format, a...), meanings[c]})
	}
}

// Failed reports whether a check failed.
func (r *Report) Failed(c Check) bool {
	for _, f := range r.Failures {
		if f.Check == c {
			return true
		}
	}
	return false
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	verdict := "VERIFIED"
	if !r.Verified {
		verdict = fmt.Sprintf("NOT VERIFIED: %d failures", r.FailuresTotal)
	}
	fmt.Fprintf(&b, "%s\n\n", verdict)
	fmt.Fprintf(&b, "log          %s\n", r.Origin)
	fmt.Fprintf(&b, "exported     %s\n", r.Made.Format(time.RFC3339))
	fmt.Fprintf(&b, "entries      %d, from %d to %d", r.Entries, r.From, r.From+r.Entries-1)
	if r.Entries > 0 {
		fmt.Fprintf(&b, ", written from %s to %s", r.First, r.Last)
	}
	fmt.Fprintf(&b, "\nstate        %d objects, digest %s\n", r.Facts, r.StateDigest)
	fmt.Fprintf(&b, "checkpoints  %d", r.Checkpoints)
	if c := r.LastCheckpoint; c != nil {
		fmt.Fprintf(&b, ", the last one of %d entries with root %s", c.Size, c.Root)
		for _, list := range []struct {
			how  string
			sigs []Signature
		}{{"signed by", c.Good}, {"FALSELY signed as", c.Bad}, {"signed by an unknown key", c.Unknown}} {
			for _, s := range list.sigs {
				fmt.Fprintf(&b, "\n             %s %s", list.how, s)
				if s.Time != 0 {
					fmt.Fprintf(&b, " at %s", s.Time)
				}
			}
		}
	}
	b.WriteString("\n")
	if r.Earlier >= 0 {
		fmt.Fprintf(&b, "compared     with the log of %d entries you saw before\n", r.Earlier)
	}
	writeFindings(&b, "FAILURES", r.Failures, r.FailuresTotal)
	writeFindings(&b, "NOTICES (nothing failed by them)", r.Notices, r.NoticesTotal)
	if len(r.NotChecked) > 0 {
		b.WriteString("\nNOT CHECKED\n")
		for _, n := range r.NotChecked {
			fmt.Fprintf(&b, "  %s\n", n)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeFindings(b *strings.Builder, title string, list []Finding, total int64) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\n%s\n", title)
	said := map[Check]bool{}
	for _, f := range list {
		where := fmt.Sprintf("line %d", f.Line)
		if f.Line == 0 {
			where = "the whole"
		}
		if f.Entry >= 0 {
			where = fmt.Sprintf("entry %d (%s)", f.Entry, where)
		}
		fmt.Fprintf(b, "  %s: %s [%s]\n", where, f.What, f.Check)
		if !said[f.Check] {
			fmt.Fprintf(b, "      %s\n", f.Means)
			said[f.Check] = true
		}
	}
	if n := total - int64(len(list)); n > 0 {
		fmt.Fprintf(b, "  … and %d more\n", n)
	}
}
