package sqlstore

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
)

// A backup is lines of JSON, the same for both databases:
//
//	{"keyway_backup":1,"schema":2,"taken":"2026-01-02T03:04:05Z"}
//	{"table":"keys","columns":["id","name",…]}
//	[{"b":"…base64…"},"name",…]                                 a row; bytes are objects, numbers integers
//	…
//	{"rows":{"keys":1,…},"sha256":"…"}                          of everything before this line
//
// Its version rises when an older program could not read it.
const backupVersion = 1

// backupTables are the tables of a backup in the order in which they are restored. What is not here is goose's, and the empty table of turns.
var backupTables = []string{"epoch", "keys", "versions", "keks", "clients", "grants", "members", "leases", "jobs", "audit_head", "audit_leaves", "audit_hashes", "audit_checkpoints", "audit_keys"}

type backupHead struct {
	Version int       `json:"keyway_backup"`
	Schema  int64     `json:"schema"`
	Taken   time.Time `json:"taken"`
}

type backupTable struct {
	Table   string   `json:"table"`
	Columns []string `json:"columns"`
}

type backupBytes struct {
	B []byte `json:"b"`
}

// BackupSummary is what a backup holds.
type BackupSummary struct {
	// Rows counts the rows of each table.
	Rows map[string]int `json:"rows"`
	// SHA256 is the digest, in hexadecimal, of the backup without its last line.
	SHA256 string `json:"sha256"`
}

// hashing counts in a digest what is written through it.
type hashing struct {
	w io.Writer
	h hash.Hash
}

func (h *hashing) Write(b []byte) (int, error) {
	h.h.Write(b)
	return h.w.Write(b)
}

func (h *hashing) sum() string { return hex.EncodeToString(h.h.Sum(nil)) }

// line writes one line.
func line(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = w.Write(append(b, '\n'))
	}
	return err
}

// Backup writes the whole store as it is at one moment, while others go on changing it. Keys are in it as they are in the store, wrapped.
func (s *Store) Backup(ctx context.Context, w io.Writer) (BackupSummary, error) {
	out := BackupSummary{Rows: map[string]int{}}
	buffered := bufio.NewWriterSize(w, 1<<16)
	h := &hashing{w: buffered, h: sha256.New()}
	// Not View: what is written cannot be taken back, so a lost link ends it.
	tx, err := s.read.BeginTx(ctx, s.dialect.view)
	if err != nil {
		return out, fmt.Errorf("store: %w", s.dialect.advise(err))
	}
	defer func() { _ = tx.Rollback() }()
	t := &transaction{ctx: ctx, tx: tx, dialect: s.dialect}
	head := backupHead{Version: backupVersion, Taken: time.Now().UTC().Truncate(time.Second)}
	if err := t.row("SELECT MAX(version_id) FROM goose_db_version").Scan(&head.Schema); err != nil {
		return out, fmt.Errorf("store: %w", s.dialect.advise(err))
	}
	if err := line(h, head); err != nil {
		return out, err
	}
	for _, table := range backupTables {
		if out.Rows[table], err = t.dump(h, table); err != nil {
			return out, fmt.Errorf("store: backing up %s: %w", table, s.dialect.advise(err))
		}
	}
	out.SHA256 = h.sum()
	if err := line(buffered, out); err != nil {
		return out, err
	}
	return out, buffered.Flush()
}

// dump writes one table and returns how many rows it has.
func (t *transaction) dump(w io.Writer, table string) (n int, err error) {
	rows, err := t.rows("SELECT * FROM " + table)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	if err := line(w, backupTable{table, columns}); err != nil {
		return 0, err
	}
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(places...); err != nil {
			return n, err
		}
		for i, v := range values {
			if b, ok := v.([]byte); ok {
				values[i] = backupBytes{b}
			}
		}
		if err := line(w, values); err != nil {
			return n, err
		}
		n++
	}
	return n, rows.Err()
}

// columns returns the names of a table's columns.
func (t *transaction) columns(table string) (map[string]bool, error) {
	rows, err := t.rows("SELECT * FROM " + table + " LIMIT 0")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out, rows.Err()
}

// insertion returns the statement that puts in one row.
func insertion(table string, columns []string) string {
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s)", table, strings.Join(columns, ", "), strings.Repeat(", ?", len(columns)-1))
}
