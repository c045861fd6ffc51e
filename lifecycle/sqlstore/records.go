package sqlstore

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

// put writes a document, which is the first argument of the query.
func (t *transaction) put(what, query string, doc any, args ...any) (int64, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return 0, fmt.Errorf("store: %s: %w", what, err)
	}
	return t.exec(what, query, append([]any{string(b)}, args...)...)
}

// documents reads the documents of a query.
func documents[T any](t *transaction, query string, args ...any) ([]T, error) {
	rows, err := t.rows(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []T{}
	for rows.Next() {
		var b string
		var v T
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(b), &v); err != nil {
			return nil, fmt.Errorf("store: a document that does not parse: %w", err)
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func (t *transaction) InsertClient(c key.Client) error {
	_, err := t.put("client "+c.Name, "INSERT INTO clients (document, name) VALUES (?, ?)", c, c.Name)
	return err
}

func (t *transaction) UpdateClient(c key.Client) error {
	n, err := t.put("client "+c.Name, "UPDATE clients SET document = ? WHERE name = ?", c, c.Name)
	if err == nil && n == 0 {
		return fmt.Errorf("client %s: %w", c.Name, key.ErrNotFound)
	}
	return err
}

func (t *transaction) DeleteClient(name string) error {
	return t.one("client "+name, "DELETE FROM clients WHERE name = ?", name)
}

func (t *transaction) Client(name string) (*key.Client, error) {
	all, err := documents[key.Client](t, "SELECT document FROM clients WHERE name = ?", name)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("client %s: %w", name, key.ErrNotFound)
	}
	return &all[0], nil
}

func (t *transaction) Clients() ([]key.Client, error) {
	return documents[key.Client](t, "SELECT document FROM clients ORDER BY name")
}

func (t *transaction) InsertGrant(g key.Grant) (id int64, err error) {
	b, err := json.Marshal(g)
	if err != nil {
		return 0, fmt.Errorf("store: grant: %w", err)
	}
	if err := t.raise(); err != nil {
		return 0, err
	}
	t.changed = true
	err = t.returning("INSERT INTO grants (document) VALUES (?) RETURNING id", string(b)).Scan(&id)
	return id, err
}

func (t *transaction) DeleteGrant(id int64) error {
	return t.one(fmt.Sprintf("grant %d", id), "DELETE FROM grants WHERE id = ?", id)
}

// Grants reads the grants; the ID in the table counts, not the one in the document, which was written before it was known.
func (t *transaction) Grants() ([]key.Grant, error) {
	rows, err := t.rows("SELECT id, document FROM grants ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []key.Grant{}
	for rows.Next() {
		var id int64
		var b string
		var g key.Grant
		if err := rows.Scan(&id, &b); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(b), &g); err != nil {
			return nil, fmt.Errorf("store: grant %d does not parse: %w", id, err)
		}
		g.ID = id
		out = append(out, g)
	}
	return out, rows.Err()
}

// PutKEK must be told of in the log unless the KEK is not made yet, or is none.
func (t *transaction) PutKEK(k lifecycle.KEK) error {
	t.changed = t.changed || k.Kind != lifecycle.KEKTurn && k.KCV != nil
	_, err := t.loudly("KEK "+k.Name, `INSERT INTO keks (kind, name, id, kcv, created) VALUES (?,?,?,?,?)
		ON CONFLICT (kind, name) DO UPDATE SET id = excluded.id, kcv = excluded.kcv, created = excluded.created`, string(k.Kind), k.Name, k.ID[:], k.KCV, millis(k.Created))
	return err
}

func (t *transaction) KEK(kind lifecycle.KEKKind, name string) (*lifecycle.KEK, error) {
	k := lifecycle.KEK{Kind: kind, Name: name}
	var id []byte
	var created int64
	err := t.row("SELECT id, kcv, created FROM keks WHERE kind = ? AND name = ?", string(kind), name).Scan(&id, &k.KCV, &created)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%s KEK %s: %w", kind, name, key.ErrNotFound)
	}
	copy(k.ID[:], id)
	k.Created = when(created)
	return &k, err
}

func (t *transaction) PutMember(m lifecycle.MemberRecord) error {
	_, err := t.put("member "+m.Name, `INSERT INTO members (document, pool, name) VALUES (?,?,?)
		ON CONFLICT (pool, name) DO UPDATE SET document = excluded.document`, m, m.Pool, m.Name)
	return err
}

func (t *transaction) DeleteMember(pool, name string) error {
	return t.one("member "+name, "DELETE FROM members WHERE pool = ? AND name = ?", pool, name)
}

func (t *transaction) Members(pool string) ([]lifecycle.MemberRecord, error) {
	return documents[lifecycle.MemberRecord](t, "SELECT document FROM members WHERE pool = ? ORDER BY name", pool)
}
