package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// rowsAtOnce is how many rows one statement writes or reads where there may be many.
const rowsAtOnce = 200

// Append puts entries at the end of the log. The head of the log stays locked until the transaction ends, so that two who append at once
// do so one after the other.
func (t *transaction) Append(entries ...*audit.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	tree, err := t.lockLog(len(entries))
	if err != nil {
		return err
	}
	now := audit.TimeOf(time.Now())
	for _, e := range entries {
		if e.Time == 0 {
			e.Time = now
		}
		if e.Node == "" {
			e.Node = t.node
		}
		if e.Actor == (audit.Actor{}) {
			e.Actor = audit.Actor{Name: audit.PrincipalOf("node/" + string(t.node)), Auth: audit.BySystem}
		}
		if e.Outcome == "" {
			e.Outcome = audit.Done
		}
	}
	next, batch, err := tree.Append(entries...)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	leaves := make([]any, len(batch.Leaves))
	for i, l := range batch.Leaves {
		leaves[i] = string(l)
	}
	hashes := make([]any, len(batch.Hashes))
	for i := range batch.Hashes {
		hashes[i] = batch.Hashes[i][:]
	}
	if err := t.insertMany("INSERT INTO audit_leaves (seq, entry) VALUES ", batch.First, leaves); err != nil {
		return err
	}
	if err := t.insertMany("INSERT INTO audit_hashes (idx, hash) VALUES ", batch.Index, hashes); err != nil {
		return err
	}
	t.tree, t.appended = &next, true
	return nil
}

// lockLog makes room for n entries and returns the tree that they are appended to.
func (t *transaction) lockLog(n int) (audit.Tree, error) {
	var size int64
	err := t.returning("UPDATE audit_head SET size = size + ? WHERE one = 1 RETURNING size", n).Scan(&size)
	if errors.Is(err, sql.ErrNoRows) {
		return audit.Tree{}, fmt.Errorf("%w: its head is gone: somebody has removed it", lifecycle.ErrLogDamaged)
	}
	if err != nil {
		return audit.Tree{}, fmt.Errorf("store: audit log: %w", err)
	}
	if t.tree != nil {
		return *t.tree, nil
	}
	tree, err := audit.Resume(size-int64(n), t)
	if err != nil {
		return audit.Tree{}, fmt.Errorf("store: the audit log cannot be continued, and so nothing can be changed: %w", err)
	}
	return tree, nil
}

// insertMany inserts rows of two columns, the first of which counts up from first.
func (t *transaction) insertMany(into string, first int64, values []any) error {
	for len(values) > 0 {
		n := min(len(values), rowsAtOnce)
		args := make([]any, 0, 2*n)
		for i := range n {
			args = append(args, first+int64(i), values[i])
		}
		if _, err := t.quietly("audit log", into+"(?,?)"+strings.Repeat(",(?,?)", n-1), args...); err != nil {
			return err
		}
		values, first = values[n:], first+int64(n)
	}
	return nil
}

// LogSize returns the number of entries.
func (t *transaction) LogSize() (size int64, err error) {
	err = t.row("SELECT size FROM audit_head").Scan(&size)
	return size, err
}

// Entries reads entries in their canonical form.
func (t *transaction) Entries(from int64, limit int) ([][]byte, error) {
	rows, err := t.rows("SELECT seq, entry FROM audit_leaves WHERE seq >= ? ORDER BY seq LIMIT ?", from, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var seq int64
		var leaf string
		if err := rows.Scan(&seq, &leaf); err != nil {
			return nil, err
		}
		if seq != from+int64(len(out)) {
			return nil, fmt.Errorf("%w: entry %d is missing: somebody has removed it", lifecycle.ErrLogDamaged, from+int64(len(out)))
		}
		out = append(out, []byte(leaf))
	}
	return out, rows.Err()
}

// ReadHashes reads hashes of the log's tree.
func (t *transaction) ReadHashes(indexes []int64) ([]audit.TreeHash, error) {
	out := make([]audit.TreeHash, len(indexes))
	place := make(map[int64]int, len(indexes))
	args := make([]any, len(indexes))
	for i, x := range indexes {
		place[x], args[i] = i, x
	}
	found := 0
	for rest := args; len(rest) > 0; {
		n := min(len(rest), rowsAtOnce)
		err := t.hashes(rest[:n], func(x int64, h []byte) {
			copy(out[place[x]][:], h)
			found++
		})
		if err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	if found != len(place) {
		return nil, fmt.Errorf("%w: %d of %d hashes are missing: somebody has removed them", lifecycle.ErrLogDamaged, len(place)-found, len(place))
	}
	return out, nil
}

// hashes hands out those of the tree's hashes that are there.
func (t *transaction) hashes(indexes []any, f func(index int64, hash []byte)) error {
	rows, err := t.rows("SELECT idx, hash FROM audit_hashes WHERE idx IN (?"+strings.Repeat(",?", len(indexes)-1)+")", indexes...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var x int64
		var h []byte
		if err := rows.Scan(&x, &h); err != nil {
			return err
		}
		f(x, h)
	}
	return rows.Err()
}

// PutCheckpoint keeps a signed checkpoint of the log.
func (t *transaction) PutCheckpoint(size int64, note []byte) error {
	_, err := t.quietly("checkpoint", "INSERT INTO audit_checkpoints (size, note) VALUES (?, ?)", size, string(note))
	return err
}

// Checkpoints reads signed checkpoints by their size.
func (t *transaction) Checkpoints(after int64, limit int) ([][]byte, error) {
	return t.texts("SELECT note FROM audit_checkpoints WHERE size > ? ORDER BY size LIMIT ?", after, limit)
}

// LastCheckpoint returns the signed checkpoint of the most entries.
func (t *transaction) LastCheckpoint() ([]byte, error) {
	var note string
	err := t.row("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1").Scan(&note)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("checkpoint of the audit log: %w", key.ErrNotFound)
	}
	return []byte(note), err
}

// PutLogKey remembers the public key of a node.
func (t *transaction) PutLogKey(verifier string) error {
	_, err := t.quietly("log key", "INSERT INTO audit_keys (verifier) VALUES (?) ON CONFLICT (verifier) DO NOTHING", verifier)
	return err
}

// LogKeys returns the public keys of all nodes.
func (t *transaction) LogKeys() ([]string, error) {
	all, err := t.texts("SELECT verifier FROM audit_keys ORDER BY verifier")
	out := make([]string, len(all))
	for i, b := range all {
		out[i] = string(b)
	}
	return out, err
}

func (t *transaction) texts(query string, args ...any) ([][]byte, error) {
	rows, err := t.rows(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, []byte(s))
	}
	return out, rows.Err()
}
