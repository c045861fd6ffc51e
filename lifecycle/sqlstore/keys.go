package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

func millis(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.UnixMilli()
}

func when(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func (t *transaction) Epoch() (e uint64, err error) {
	err = t.row("SELECT epoch FROM epoch").Scan(&e)
	return e, err
}

func (t *transaction) InsertKey(k key.Key) error {
	_, err := t.exec("key "+k.Name, "INSERT INTO keys (id, name, algorithm, usages, pool, primary_version, created) VALUES (?,?,?,?,?,?,?)",
		k.ID[:], k.Name, string(k.Algorithm), uint16(k.Usages), k.Pool, k.Primary, millis(k.Created))
	return err
}

func (t *transaction) InsertVersion(v lifecycle.VersionRow) error {
	_, err := t.exec("version", "INSERT INTO versions (id, key_id, number, state, state_at, created) VALUES (?,?,?,?,?,?)",
		v.ID[:], v.KeyID[:], v.Number, v.State.String(), millis(v.Created), millis(v.Created))
	return err
}

func (t *transaction) SetPrimary(id key.ID, version uint32) error {
	return t.one("key", "UPDATE keys SET primary_version = ? WHERE id = ?", version, id[:])
}

func (t *transaction) SetState(id key.ID, s key.State, at time.Time) error {
	return t.one("version", "UPDATE versions SET state = ?, state_at = ? WHERE id = ?", s.String(), millis(at), id[:])
}

func (t *transaction) SetMaterial(id key.ID, m lifecycle.Material) error {
	return t.one("version", "UPDATE versions SET master = ?, blob = ?, mechanism = ?, public = ? WHERE id = ?", m.Master, m.Blob, m.Mechanism, m.Public, id[:])
}

func (t *transaction) EraseMaterial(id key.ID) error {
	t.erased = true
	return t.one("version", "UPDATE versions SET master = NULL, blob = NULL WHERE id = ?", id[:])
}

func (t *transaction) AddUses(id key.ID, n uint64) (total uint64, err error) {
	err = t.returning("UPDATE versions SET uses = uses + ? WHERE id = ? RETURNING uses", n, id[:]).Scan(&total)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("version %s: %w", id, key.ErrNotFound)
	}
	return total, err
}

const versionColumns = `v.key_id, v.id, k.name, v.number, k.algorithm, k.usages, k.pool, v.state, v.created, v.not_before, v.originator_end, v.recipient_end, v.public, v.blob, v.mechanism`

func scanVersion(scan func(...any) error) (*key.Version, error) {
	var v key.Version
	var keyID, id []byte
	var state string
	var usages uint16
	var created, notBefore, originatorEnd, recipientEnd int64
	err := scan(&keyID, &id, &v.Name, &v.Number, &v.Algorithm, &usages, &v.Pool, &state, &created, &notBefore, &originatorEnd, &recipientEnd, &v.Public, &v.Blob, &v.BlobMechanism)
	if err != nil {
		return nil, err
	}
	if v.State, err = key.ParseState(state); err != nil {
		return nil, fmt.Errorf("store: %s: %w", v.Name, err)
	}
	copy(v.KeyID[:], keyID)
	copy(v.ID[:], id)
	v.Usages = key.Usage(usages)
	v.Created, v.NotBefore, v.OriginatorEnd, v.RecipientEnd = when(created), when(notBefore), when(originatorEnd), when(recipientEnd)
	return &v, nil
}

// Version reads one version. A key without a primary version is a matter of state, not of being there.
func (t *transaction) Version(r key.Ref) (*key.Version, error) {
	q := "SELECT " + versionColumns + " FROM keys k JOIN versions v ON v.key_id = k.id AND v.number = "
	var found *sql.Row
	if r.Version == 0 {
		found = t.row(q+"k.primary_version WHERE k.name = ?", r.Name)
	} else {
		found = t.row(q+"? WHERE k.name = ?", r.Version, r.Name)
	}
	v, err := scanVersion(found.Scan)
	if !errors.Is(err, sql.ErrNoRows) {
		return v, err
	}
	if r.Version == 0 {
		var n int
		err := t.row("SELECT 1 FROM keys WHERE name = ?", r.Name).Scan(&n)
		if err == nil {
			return nil, fmt.Errorf("%w: %s has no active version", key.ErrState, r.Name)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: %w", r, key.ErrNotFound)
}

func (t *transaction) Key(name string) (*key.Key, error) {
	keys, err := t.keys("WHERE name = ?", name)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: %w", name, key.ErrNotFound)
	}
	return keys[0], t.versions(keys, "k.name = ?", name)
}

// Keys reads a page with two queries, however long it is.
func (t *transaction) Keys(after string, limit int) ([]*key.Key, error) {
	keys, err := t.keys("WHERE name > ? ORDER BY name LIMIT ?", after, limit)
	if err != nil || len(keys) == 0 {
		return keys, err
	}
	return keys, t.versions(keys, "k.name > ? AND k.name <= ?", after, keys[len(keys)-1].Name)
}

func (t *transaction) keys(where string, args ...any) ([]*key.Key, error) {
	rows, err := t.rows("SELECT id, name, algorithm, usages, pool, primary_version, created FROM keys "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []*key.Key{}
	for rows.Next() {
		k := key.Key{Versions: []*key.Version{}}
		var id []byte
		var usages uint16
		var created int64
		if err := rows.Scan(&id, &k.Name, &k.Algorithm, &usages, &k.Pool, &k.Primary, &created); err != nil {
			return nil, err
		}
		copy(k.ID[:], id)
		k.Usages, k.Created = key.Usage(usages), when(created)
		out = append(out, &k)
	}
	return out, rows.Err()
}

// versions gives each of keys, which are in the order of their names, its versions; where chooses the same keys.
func (t *transaction) versions(keys []*key.Key, where string, args ...any) error {
	rows, err := t.rows("SELECT "+versionColumns+" FROM keys k JOIN versions v ON v.key_id = k.id WHERE "+where+" ORDER BY k.name, v.number", args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		v, err := scanVersion(rows.Scan)
		if err != nil {
			return err
		}
		for len(keys) > 0 && keys[0].ID != v.KeyID {
			keys = keys[1:]
		}
		if len(keys) == 0 {
			return fmt.Errorf("store: version %s of %s belongs to no key that was asked for", v.ID, v.Name)
		}
		keys[0].Versions = append(keys[0].Versions, v)
	}
	return rows.Err()
}
