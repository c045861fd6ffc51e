-- +goose Up
-- What is in the log is told by lifecycle/audit; the head is locked by whoever appends.
CREATE TABLE audit_head (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL);
INSERT INTO audit_head VALUES (1, 0);
CREATE TABLE audit_leaves (seq INTEGER PRIMARY KEY, entry TEXT NOT NULL);
CREATE TABLE audit_hashes (idx INTEGER PRIMARY KEY, hash BLOB NOT NULL CHECK (length(hash) = 32));
CREATE TABLE audit_checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE audit_keys (verifier TEXT PRIMARY KEY);

-- +goose Down
DROP TABLE audit_keys;
DROP TABLE audit_checkpoints;
DROP TABLE audit_hashes;
DROP TABLE audit_leaves;
DROP TABLE audit_head;
