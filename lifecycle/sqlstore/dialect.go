package sqlstore

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
)

// trouble is what an error of a transaction that was not committed means for doing it again.
type trouble uint8

const (
	noTrouble trouble = iota // it is an answer
	conflict                 // others changed what it read
	perhaps                  // it may come from a conflict, or be an answer
	lost                     // the link was lost, or there was none
)

// patience is how often a transaction is run again after each trouble.
var patience = map[trouble]int{conflict: tries, perhaps: 1, lost: 1}

// dialect is everything that one database does otherwise than another. Queries are written with ? for arguments.
type dialect struct {
	numbered     bool // arguments are $1, $2, …
	view, update *sql.TxOptions
	// raise raises the epoch and tells those who watch.
	raise string
	// among begins a transaction's first run, beside others, and alone every further one, which waits until no other changes
	// anything: it cannot fail in a conflict again. "" where there is one writer anyway.
	among, alone string
	// claim ends a query that takes rows j of a queue; share one whose row must stay as it is until the transaction ends.
	claim, share string
	// clock reads the database's clock, in milliseconds since 1970; "" where it is this machine's.
	clock string
	// sequences make the database go on counting after the rows that were restored with their numbers.
	sequences []string
	// learn makes the database count its rows after very many have come at once; "" where it need not.
	learn string
	// trouble classifies an error; unsure reports whether a commit that failed with it may have taken place all the same.
	trouble func(error) trouble
	unsure  func(error) bool
	// advise adds to an error what a person can do about it.
	advise func(error) error
	// erased is called after material was erased, to remove what the database still has of it. May be nil.
	erased func(context.Context, *sql.DB)
}

// bind writes a query's arguments as the database wants them. No query has a question mark in a text.
func (d *dialect) bind(query string) string {
	if !d.numbered {
		return query
	}
	var b strings.Builder
	b.Grow(len(query) + 8)
	for n := 1; ; n++ {
		before, after, found := strings.Cut(query, "?")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		query = after
	}
}
