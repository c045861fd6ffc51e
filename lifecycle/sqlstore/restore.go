package sqlstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
)

// restored is what epochs are raised by in a restored store, so that whoever has seen later ones than the backup takes none of the new ones
// for one that he knows.
const restored = 1 << 32

var (
	// ErrNotEmpty: a store is restored only where there is none.
	ErrNotEmpty = errors.New("there is something in this store already: restore into an empty one")
	// ErrBackup: the backup is damaged, cut short, or of a newer program. Nothing was restored.
	ErrBackup = errors.New("the backup cannot be restored")
)

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %w", ErrBackup, fmt.Errorf(format, a...))
}

// Restore puts a backup, of either database, into this store, which must be empty: all of it or, where something is wrong with it, nothing.
// Of two that restore at once one finds the store not empty. digest, where it is not "", is what the backup's must be.
func (s *Store) Restore(ctx context.Context, r io.Reader, digest string) (out BackupSummary, err error) {
	t := &transaction{ctx: ctx, dialect: s.dialect, writable: true, node: s.node}
	err = s.update(t, 1, func(lifecycle.Tx) error { // once, and alone: the backup cannot be read again
		out, err = t.restore(bufio.NewReaderSize(r, 1<<16))
		if err == nil && digest != "" && digest != out.SHA256 {
			err = damaged("its SHA-256 is %s, not %s: it is another backup, or somebody has changed it", out.SHA256, digest)
		}
		return err
	})
	if err == nil && s.dialect.learn != "" {
		_, _ = s.write.ExecContext(ctx, s.dialect.learn) // the database does so by itself, later
	}
	return out, s.dialect.advise(err)
}

func (t *transaction) restore(r *bufio.Reader) (out BackupSummary, err error) {
	for _, table := range backupTables {
		if table == "epoch" || strings.HasPrefix(table, "audit_") {
			continue
		}
		var n int
		if err := t.row("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
			return out, err
		}
		if n > 0 {
			return out, ErrNotEmpty
		}
	}
	// The log of an empty store has the entry that begins it; with more it was used.
	if n, err := t.LogSize(); err != nil || n > 1 {
		return out, errors.Join(err, ErrNotEmpty)
	}
	for _, table := range []string{"epoch", "audit_head", "audit_leaves", "audit_hashes", "audit_checkpoints", "audit_keys"} {
		if _, err := t.quietly(table, "DELETE FROM "+table); err != nil {
			return out, err
		}
	}
	h := sha256.New()
	var head backupHead
	b, err := r.ReadBytes('\n')
	if err != nil || json.Unmarshal(b, &head) != nil || head.Version == 0 {
		return out, damaged("it does not begin as one")
	}
	h.Write(b)
	var newest int64
	if err := t.row("SELECT MAX(version_id) FROM goose_db_version").Scan(&newest); err != nil {
		return out, err
	}
	if head.Version > backupVersion || head.Schema > newest {
		return out, damaged("it was made by a newer keyway: restore it with that one")
	}
	rows := map[string]int{}
	var table string
	var insert string
	var width int
	for {
		b, err := r.ReadBytes('\n')
		if err != nil {
			return out, damaged("it has no end: it was cut short (%w)", err)
		}
		switch b[0] {
		case '[':
			if insert == "" {
				return out, damaged("a row before any table")
			}
			values, err := parseRow(b, width)
			if err != nil {
				return out, damaged("row %d of %s: %w", rows[table]+1, table, err)
			}
			if _, err := t.quietly(table, insert, values...); err != nil {
				return out, fmt.Errorf("%w: row %d of %s: %w", ErrBackup, rows[table]+1, table, err)
			}
			rows[table]++
		default:
			var line struct {
				backupTable
				BackupSummary
			}
			if err := json.Unmarshal(b, &line); err != nil {
				return out, damaged("a line that is none")
			}
			if line.Table == "" {
				return line.BackupSummary, t.complete(r, line.BackupSummary, rows, hex.EncodeToString(h.Sum(nil)))
			}
			table, width = line.Table, len(line.Columns)
			if insert, err = t.inserting(table, line.Columns); err != nil {
				return out, err
			}
			rows[table] = 0
		}
		h.Write(b)
	}
}

// inserting checks that the store has what a backup says, whose names come from a file.
func (t *transaction) inserting(table string, columns []string) (string, error) {
	if !slices.Contains(backupTables, table) {
		return "", damaged("there is no table %q", table)
	}
	have, err := t.columns(table)
	if err != nil {
		return "", err
	}
	for _, c := range columns {
		if !have[c] {
			return "", damaged("table %s has no column %q", table, c)
		}
	}
	if len(columns) == 0 {
		return "", damaged("table %s without columns", table)
	}
	return insertion(table, columns), nil
}

// complete checks the end of a backup against what was read, and makes the store fit for use.
func (t *transaction) complete(r io.Reader, end BackupSummary, rows map[string]int, digest string) error {
	switch n, _ := io.CopyN(io.Discard, r, 1); {
	case n > 0:
		return damaged("there is something after its end")
	case end.SHA256 != digest:
		return damaged("its digest is %s and it says %s: it was changed", digest, end.SHA256)
	case !maps.Equal(end.Rows, rows):
		return damaged("it has %v rows and says %v", rows, end.Rows)
	case rows["epoch"] != 1:
		return damaged("it has no epoch")
	}
	for _, table := range backupTables {
		var n int
		if err := t.row("SELECT COUNT(*) FROM " + table).Scan(&n); err != nil {
			return err
		}
		if n != rows[table] {
			return damaged("%s has %d rows in the store and %d in the backup", table, n, rows[table])
		}
	}
	for _, query := range append([]string{
		fmt.Sprintf("UPDATE epoch SET epoch = epoch + %d", int64(restored)),
		fmt.Sprintf("UPDATE leases SET epoch = epoch + %d, expires = 0", int64(restored)),
	}, t.dialect.sequences...) {
		if _, err := t.quietly("restore", query); err != nil {
			return err
		}
	}
	return t.resumeLog(rows, digest)
}

// resumeLog says in the log that a backup was restored. One from before the log begins it.
func (t *transaction) resumeLog(rows map[string]int, digest string) error {
	if rows["audit_head"] == 0 {
		if _, err := t.quietly("audit log", "INSERT INTO audit_head (one, size) VALUES (1, 0)"); err != nil {
			return err
		}
	}
	if err := lifecycle.AdoptAll(t); err != nil {
		return err
	}
	size, err := t.LogSize()
	if err != nil {
		return err
	}
	h, err := audit.ParseHash(digest)
	if err != nil {
		return err
	}
	return t.Append(&audit.Entry{Action: audit.BackupRestored, Object: audit.Object{Kind: audit.KindBackup, Name: "store"}, Details: audit.Details{Hash: h, Size: audit.Number(size)}})
}

// parseRow reads a row of a backup.
func parseRow(b []byte, width int) ([]any, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, err
	}
	if len(raw) != width {
		return nil, fmt.Errorf("%d values, want %d", len(raw), width)
	}
	out := make([]any, width)
	for i, v := range raw {
		switch v = bytes.TrimSpace(v); v[0] {
		case 'n':
		case '{':
			var b backupBytes
			if err := json.Unmarshal(v, &b); err != nil {
				return nil, err
			}
			out[i] = b.B
		case '"':
			var s string
			if err := json.Unmarshal(v, &s); err != nil {
				return nil, err
			}
			out[i] = s
		default:
			var n int64
			if err := json.Unmarshal(v, &n); err != nil {
				return nil, err
			}
			out[i] = n
		}
	}
	return out, nil
}
