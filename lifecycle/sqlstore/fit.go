package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func (t *transaction) KEKs(kind lifecycle.KEKKind) ([]lifecycle.KEK, error) {
	rows, err := t.rows("SELECT name, id, kcv, created FROM keks WHERE kind = ? ORDER BY name", string(kind))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []lifecycle.KEK{}
	for rows.Next() {
		k := lifecycle.KEK{Kind: kind}
		var id []byte
		var created int64
		if err := rows.Scan(&k.Name, &id, &k.KCV, &created); err != nil {
			return nil, err
		}
		copy(k.ID[:], id)
		k.Created = when(created)
		out = append(out, k)
	}
	return out, rows.Err()
}

func (t *transaction) DeleteKEK(kind lifecycle.KEKKind, name string) error {
	if err := t.raise(); err != nil {
		return err
	}
	var kcv []byte
	err := t.returning("DELETE FROM keks WHERE kind = ? AND name = ? RETURNING kcv", string(kind), name).Scan(&kcv)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s KEK %s: %w", kind, name, key.ErrNotFound)
	}
	t.changed = t.changed || kcv != nil
	return err
}

func (t *transaction) AllMembers() ([]lifecycle.MemberRecord, error) {
	return documents[lifecycle.MemberRecord](t, "SELECT document FROM members ORDER BY pool, name")
}

func (t *transaction) KeysInUse(pool string) ([]lifecycle.KeysInUse, error) {
	rows, err := t.rows(`SELECT algorithm, usages, COUNT(*), MIN(name) FROM keys
		WHERE pool = ? AND EXISTS (SELECT 1 FROM versions WHERE key_id = keys.id AND blob IS NOT NULL)
		GROUP BY algorithm, usages ORDER BY algorithm, usages`, pool)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []lifecycle.KeysInUse{}
	for rows.Next() {
		var u lifecycle.KeysInUse
		var algorithm string
		var usages int64
		if err := rows.Scan(&algorithm, &usages, &u.Count, &u.Example); err != nil {
			return nil, err
		}
		u.Algorithm, u.Usages = key.Algorithm(algorithm), key.Usage(usages)
		out = append(out, u)
	}
	return out, rows.Err()
}
