package faulthsm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Status is how a process is.
type Status struct {
	PID         int
	Module      string // the real one
	Initialized bool
	// ControlFile is "none" (not configured), "absent", "ok" or "error"; with "error" what was in force before stays, and
	// ControlError says where it is wrong and what to write instead.
	ControlFile, ControlError string
	// ControlHash is the FNV-1a hash of the file as last read.
	ControlHash uint64
	// Statements is how many are in force.
	Statements int
	// TokenAbsent: removed by a statement or an effect.
	TokenAbsent bool
	// Sessions and SessionObjects are those open through the module.
	Sessions, SessionObjects int
	// ObjectEpoch counts ForgetObjects.
	ObjectEpoch int
	// Waiting are the calls that sleep or hang in a rule now.
	Waiting int
	// Altered are the calls whose answer was not the token's.
	Altered int64
	// Leaked is in bytes.
	Leaked int64
}

// Status asks a process how it is.
func (c *Conn) Status(ctx context.Context) (Status, error) {
	lines, err := c.Do(ctx, "status")
	if err != nil {
		return Status{}, err
	}
	v := map[string]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, " ")
		v[name] = value
	}
	p := parser{}
	s := Status{
		PID: p.int(v["pid"]), Module: v["module"], Initialized: v["initialized"] == "yes",
		ControlFile: v["control-file"], ControlError: v["control-error"], ControlHash: p.hex(v["control-hash"]),
		Statements: p.int(v["statements"]), TokenAbsent: v["token"] == "absent",
		Sessions: p.int(v["sessions"]), SessionObjects: p.int(v["session-objects"]), ObjectEpoch: p.int(v["object-epoch"]),
		Waiting: p.int(v["waiting"]), Altered: p.int64(v["altered"]), Leaked: p.int64(v["leaked"]),
	}
	if p.err != nil {
		return Status{}, fmt.Errorf("faulthsm: status: %w", p.err)
	}
	return s, nil
}

// parser reads numbers and remembers the first that was none.
type parser struct{ err error }

func (p *parser) int64(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && p.err == nil {
		p.err = err
	}
	return n
}

func (p *parser) int(s string) int { return int(p.int64(s)) }

func (p *parser) hex(s string) uint64 {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil && p.err == nil {
		p.err = err
	}
	return n
}

// fields reads name=number words.
func (p *parser) fields(words []string) map[string]int64 {
	m := map[string]int64{}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok && name != "from" {
			m[name] = p.int64(value)
		}
	}
	return m
}

// Item is a statement in force.
type Item struct {
	ID string
	// File: from the control file; else from the socket.
	File bool
	// Seen are the calls that fitted its conditions, Fired those it acted on, Waiting those in it now.
	Seen, Fired, Waiting int64
	// Text is the statement in its one canonical form.
	Text string
}

// List returns the statements in force.
func (c *Conn) List(ctx context.Context) ([]Item, error) {
	lines, err := c.Do(ctx, "list")
	if err != nil {
		return nil, err
	}
	var all []Item
	p := parser{}
	for _, l := range lines {
		w := strings.SplitN(l, " ", 6)
		if len(w) != 6 {
			return nil, fmt.Errorf("faulthsm: list: %q", l)
		}
		n := p.fields(w[1:5])
		all = append(all, Item{ID: w[0], File: w[1] == "from=file", Seen: n["seen"], Fired: n["fired"], Waiting: n["waiting"], Text: w[5]})
	}
	if p.err != nil {
		return nil, fmt.Errorf("faulthsm: list: %w", p.err)
	}
	return all, nil
}

// Item returns one statement in force.
func (c *Conn) Item(ctx context.Context, id string) (Item, error) {
	all, err := c.List(ctx)
	if err != nil {
		return Item{}, err
	}
	for _, i := range all {
		if i.ID == id {
			return i, nil
		}
	}
	return Item{}, fmt.Errorf("faulthsm: no statement %q is in force", id)
}

// Calls are the calls of one function.
type Calls struct {
	// Calls have begun, Inside have not returned, Failed returned something other than OK, and of Altered the answer was not the token's.
	Calls, Inside, Failed, Altered int64
}

// Stats returns the calls of every function that has been called.
func (c *Conn) Stats(ctx context.Context) (map[string]Calls, error) {
	lines, err := c.Do(ctx, "stats")
	if err != nil {
		return nil, err
	}
	all := map[string]Calls{}
	p := parser{}
	for _, l := range lines {
		w := strings.Fields(l)
		n := p.fields(w[1:])
		all[w[0]] = Calls{Calls: n["calls"], Inside: n["inside"], Failed: n["failed"], Altered: n["altered"]}
	}
	if p.err != nil {
		return nil, fmt.Errorf("faulthsm: stats: %w", p.err)
	}
	return all, nil
}

// ResetStats counts from 0 again; calls that have not returned stay counted.
func (c *Conn) ResetStats(ctx context.Context) error {
	_, err := c.Do(ctx, "stats reset")
	return err
}
