-- +goose Up
CREATE TABLE epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
INSERT INTO epoch VALUES (1, 1);

CREATE TABLE keys (
  id        BLOB PRIMARY KEY CHECK (length(id) = 16),
  name      TEXT NOT NULL UNIQUE,
  algorithm TEXT NOT NULL,
  usages    INTEGER NOT NULL,
  pool      TEXT NOT NULL,
  primary_version INTEGER NOT NULL DEFAULT 0,
  created   INTEGER NOT NULL -- milliseconds since 1970
);

CREATE TABLE versions (
  id        BLOB PRIMARY KEY CHECK (length(id) = 16),
  key_id    BLOB NOT NULL REFERENCES keys (id),
  number    INTEGER NOT NULL CHECK (number > 0),
  state     TEXT NOT NULL,
  state_at  INTEGER NOT NULL,
  created   INTEGER NOT NULL,
  not_before     INTEGER NOT NULL DEFAULT 0, -- 0: no bound
  originator_end INTEGER NOT NULL DEFAULT 0,
  recipient_end  INTEGER NOT NULL DEFAULT 0,
  master    BLOB,
  blob      BLOB,
  mechanism INTEGER NOT NULL DEFAULT 0,
  public    BLOB,
  uses      INTEGER NOT NULL DEFAULT 0,
  UNIQUE (key_id, number)
);

CREATE TABLE keks (
  kind    TEXT NOT NULL,
  name    TEXT NOT NULL,
  id      BLOB NOT NULL CHECK (length(id) = 16),
  kcv     BLOB,
  created INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
);

-- Clients and members are small and read whole, so their fields are one document each.
CREATE TABLE clients (name TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE grants (id INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL);
CREATE TABLE members (pool TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (pool, name));

-- +goose Down
DROP TABLE members;
DROP TABLE grants;
DROP TABLE clients;
DROP TABLE keks;
DROP TABLE versions;
DROP TABLE keys;
DROP TABLE epoch;
