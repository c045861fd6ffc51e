-- +goose Up
CREATE TABLE leases (
  name    TEXT PRIMARY KEY,
  holder  TEXT NOT NULL,
  epoch   INTEGER NOT NULL,
  expires INTEGER NOT NULL -- milliseconds since 1970, by the clock of the database
);

CREATE TABLE jobs (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  target     TEXT NOT NULL,
  kind       TEXT NOT NULL,
  payload    BLOB,
  state      TEXT NOT NULL CHECK (state IN ('waiting', 'claimed', 'done', 'dead')),
  not_before INTEGER NOT NULL,
  attempts   INTEGER NOT NULL DEFAULT 0,
  unknown    INTEGER NOT NULL DEFAULT 0, -- 1: an attempt may have had its effect
  said       TEXT NOT NULL DEFAULT '',
  lease      INTEGER NOT NULL DEFAULT 0, -- epoch of the lease it was claimed under
  claimed_until INTEGER NOT NULL DEFAULT 0,
  created    INTEGER NOT NULL,
  finished   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_open ON jobs (target, id) WHERE state IN ('waiting', 'claimed');
CREATE INDEX jobs_dead ON jobs (id) WHERE state = 'dead';

-- +goose Down
DROP TABLE jobs;
DROP TABLE leases;
