// Package audit is the log that proves itself: what happened to keys, by whom, in a form that nobody, the owner of the
// database included, can change afterwards without being noticed by a reader who has kept one checkpoint.
//
// # Entries
//
// An [Entry] is typed so that no field can hold key material, a PIN or a component: names, numbers, times, hashes of
// other things, states, and one text with a limit and a check. [Entry.Encode] gives the one canonical form (RFC 8785
// JSON), and [Decode] accepts no other.
//
// # Tree
//
// Entries are the leaves of a Merkle tree as in RFC 6962. A [Tree] is the little that must be known of it to append;
// [Tree.Append] returns what a store has to keep, so that leaves and hashes are written in the transaction that changes
// the keys. The package has no store of its own.
//
// # Checkpoints and bundles
//
// A [Checkpoint] is the size and root of the tree in a signed note. [Export] streams entries, checkpoints and the state
// that follows from them into one file; [Verify] checks such a file from nothing but public keys and, best, an earlier
// checkpoint that its reader kept: see docs/design/audit.md for what each check is good for.
package audit
