package lifecycle

import (
	"context"
	"errors"
	"time"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// Errors of this package that callers tell apart, beside those of package key. They are wrapped with names.
var (
	// ErrExists: something of that name is there already.
	ErrExists = errors.New("exists already")
	// ErrInvalid: the request makes no sense; its text says why.
	ErrInvalid = errors.New("invalid request")
	// ErrNoCustody: the command needs a custody token and none is configured.
	ErrNoCustody = errors.New("no custody token is configured: keys are made in it, so add a custody section to the configuration")
	// ErrUnaudited: a transaction changed something and said nothing of it in the audit log, so nothing was changed. It is a mistake in this program.
	ErrUnaudited = errors.New("a change without an entry in the audit log was not made")
	// ErrLogDamaged: the audit log in the database is not as it was written.
	ErrLogDamaged = errors.New("the audit log in the database is damaged")
	// ErrUnavailable: the database cannot be reached, or too many others are changing it. Nothing was changed here; the same once
	// more, later, is right.
	ErrUnavailable = errors.New("the store does not answer")
	// ErrOutcomeUnknown: the link to the database was lost while a change was committed: it may have taken place, whole, or not at
	// all. Look before doing it again.
	ErrOutcomeUnknown = errors.New("it is not known whether the change took place: the link to the store was lost while it was committed; look before doing it again")
)

// Store keeps everything that must survive. Its implementations pass the suite in lifecycle/storetest.
type Store interface {
	// View runs f in a read-only transaction, which sees one state throughout. f may be run again after a lost link.
	View(ctx context.Context, f func(Tx) error) error
	// Update runs f in one serialisable transaction: all of it is durable when Update returns nil, none of it
	// otherwise, but for an error wrapping ErrOutcomeUnknown. f may be run again after a conflict, so it must have no other effects.
	// A transaction that changes keys, versions, clients, grants, KEKs or members and appends nothing to the log is an ErrUnaudited. Uses,
	// leases and jobs, KEKs that are only begun and turns are bookkeeping, and exempt.
	Update(ctx context.Context, f func(Tx) error) error
	Close() error
}

// Watcher is a Store that can say when something has changed, so that it need not be asked so often.
type Watcher interface {
	// Watch returns a channel that receives after every change that raised the epoch, by anybody, once for several that come close
	// together. It is closed when ctx ends or when changes can no longer be heard of: then ask the store, and Watch again. A store that
	// never hears of others' changes returns an error wrapping errors.ErrUnsupported.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// Tx is a transaction. Look-ups of one thing return an error wrapping key.ErrNotFound when it is not there; every
// change of keys, clients or grants raises the epoch.
type Tx interface {
	// Epoch counts the changes that gateways must hear of.
	Epoch() (uint64, error)

	InsertKey(key.Key) error
	Key(name string) (*key.Key, error) // with its versions
	Keys(after string, limit int) ([]*key.Key, error)
	SetPrimary(id key.ID, version uint32) error
	InsertVersion(VersionRow) error
	Version(key.Ref) (*key.Version, error) // 0 is the primary version
	SetState(version key.ID, s key.State, at time.Time) error
	SetMaterial(version key.ID, m Material) error
	EraseMaterial(version key.ID) error
	AddUses(version key.ID, n uint64) (total uint64, err error)

	InsertClient(key.Client) error
	UpdateClient(key.Client) error
	DeleteClient(name string) error
	Client(name string) (*key.Client, error)
	Clients() ([]key.Client, error)
	InsertGrant(key.Grant) (int64, error)
	DeleteGrant(id int64) error
	Grants() ([]key.Grant, error)

	PutKEK(KEK) error
	KEK(kind KEKKind, name string) (*KEK, error)
	KEKs(kind KEKKind) ([]KEK, error) // by name
	DeleteKEK(kind KEKKind, name string) error

	PutMember(MemberRecord) error
	DeleteMember(pool, name string) error
	Members(pool string) ([]MemberRecord, error)
	AllMembers() ([]MemberRecord, error) // of every pool, by pool and name
	// KeysInUse tells what kinds of keys a pool has, keys of which no version has material left out.
	KeysInUse(pool string) ([]KeysInUse, error)

	// Append puts entries at the end of the audit log. Changes come before it in a transaction. It sets their Seq and, where they have none, Time, Node, Actor
	// (this node itself) and Outcome (done).
	Append(entries ...*audit.Entry) error
	// LogSize returns the number of entries in the log.
	LogSize() (int64, error)
	// Entries reads up to limit entries in their canonical form. An entry that is missing before others is an error that names it.
	Entries(from int64, limit int) ([][]byte, error)
	// ReadHashes reads hashes of the log's tree by their index in it.
	ReadHashes(indexes []int64) ([]audit.TreeHash, error)
	// PutCheckpoint keeps a signed checkpoint; Checkpoints reads those of more than after entries, by size; LastCheckpoint the largest one.
	PutCheckpoint(size int64, note []byte) error
	Checkpoints(after int64, limit int) ([][]byte, error)
	LastCheckpoint() ([]byte, error)
	// PutLogKey remembers the public key of a node, as verifiers write it; LogKeys returns all of them.
	PutLogKey(verifier string) error
	LogKeys() ([]string, error)

	// AcquireLease takes a lease that nobody has, for ttl, and raises its epoch. ErrLeaseHeld.
	AcquireLease(name, holder string, ttl time.Duration) (Lease, error)
	// RenewLease prolongs a lease that has not run out, to ttl from now. ErrLeaseLost.
	RenewLease(l Lease, ttl time.Duration) error
	// ReleaseLease gives a lease back, so that another one need not wait. ErrLeaseLost.
	ReleaseLease(Lease) error
	// Fenced returns ErrLeaseLost when somebody else has taken the lease. Nobody takes it before the transaction has ended.
	Fenced(Lease) error

	// InsertJob puts a job into the outbox.
	InsertJob(NewJob) (id int64, err error)
	// ClaimJobs takes up to limit jobs that are due, each the first of its target, for d: who has not finished one by then has crashed, and
	// it is claimed again. Fenced.
	ClaimJobs(l Lease, limit int, d time.Duration) ([]Job, error)
	// FinishJob records what came of a claimed job. ErrClaimLost. Fenced.
	FinishJob(Lease, Job, JobOutcome) error
	// Jobs reads up to limit jobs of a state, by ID, after one.
	Jobs(s JobState, after int64, limit int) ([]Job, error)
	// ReviveJob makes a dead job wait again, from its old place.
	ReviveJob(id int64) error
}

// KeysInUse are the keys of one pool that have the same algorithm and usages.
type KeysInUse struct {
	Algorithm key.Algorithm
	Usages    key.Usage
	Count     int
	Example   string // one of their names, the first
}

// VersionRow is a version as it is inserted: without material, which follows.
type VersionRow struct {
	ID      key.ID
	KeyID   key.ID
	Number  uint32
	State   key.State
	Created time.Time
}

// Material is what custody returns for one version. Both blobs are wrapped; nothing in it is secret.
type Material struct {
	Master    []byte // under the custody KEK: the backup
	Blob      []byte // under the pool KEK: what gateways load
	Mechanism uint32 // PKCS#11 mechanism of both
	Public    []byte // SubjectPublicKeyInfo, nil for secret keys
}

// KEKKind says what a key-encrypting key protects.
type KEKKind string

// The kinds.
const (
	KEKCustody KEKKind = "custody" // master blobs
	KEKPool    KEKKind = "pool"    // working keys of one pool
	KEKRoot    KEKKind = "root"    // the pool KEK on its way to one member
	KEKTurn    KEKKind = "turn"    // no KEK: ID is the gateway that puts KEKs on a member's token, Created when it said so last
)

// KEK records a key-encrypting key that lives on tokens as a token object.
type KEK struct {
	Kind KEKKind
	Name string // the pool's name, or pool/member for a Root KEK; "custody" for the custody KEK
	ID   key.ID // its CKA_ID, the same on every token that holds it
	// KCV is its key check value: the first 3 bytes of the AES-CMAC of a block of zeros (ANSI X9.24-1), nil until the KEK is made.
	KCV     []byte
	Created time.Time
}

// MemberRecord is a stored member of a pool: how its token is found and how much of it is used.
type MemberRecord struct {
	Pool   string `json:"pool" yaml:"-"`
	Name   string `json:"name" yaml:"name"`
	Driver string `json:"driver" yaml:"driver"` // "pkcs11" or "soft"
	// Module is the path of the PKCS#11 library; TokenLabel or TokenSerial finds the token in it.
	Module      string `json:"module,omitempty" yaml:"module"`
	TokenLabel  string `json:"token_label,omitempty" yaml:"token_label"`
	TokenSerial string `json:"token_serial,omitempty" yaml:"token_serial"`
	// TokenManufacturer and TokenModel must be what the token says too, where they are given.
	TokenManufacturer string `json:"token_manufacturer,omitempty" yaml:"token_manufacturer"`
	TokenModel        string `json:"token_model,omitempty" yaml:"token_model"`
	// URI says all of this and PINFile at once (RFC 7512); Check copies it into these fields.
	URI string `json:"uri,omitempty" yaml:"uri"`
	// TokenDir is where the embedded token keeps its file.
	TokenDir string `json:"token_dir,omitempty" yaml:"token_dir"`
	// PINFile holds the user PIN; the PIN itself is nowhere else.
	PINFile string `json:"pin_file" yaml:"pin_file"`
	// InitArgs is handed to C_Initialize by libraries that want it (NSS).
	InitArgs string `json:"init_args,omitempty" yaml:"init_args"`
	// Profile is the file of a vendor profile to be used instead of the program's own.
	Profile string `json:"profile,omitempty" yaml:"profile"`
	// Env is the worker's environment, NAME=value; never a secret.
	Env []string `json:"env,omitempty" yaml:"env"`
	// Isolation is "worker" (default) or "none".
	Isolation string `json:"isolation,omitempty" yaml:"isolation"`
	Sessions  int    `json:"sessions,omitempty" yaml:"sessions"`
	Queue     int    `json:"queue,omitempty" yaml:"queue"`
	Handles   int    `json:"handles,omitempty" yaml:"handles"`
	// MaxMemory is the resident memory, in bytes, at which the worker is replaced while another member serves. 0: no limit.
	MaxMemory int64 `json:"max_memory,omitempty" yaml:"max_memory"`
	Drained   bool  `json:"drained,omitempty" yaml:"-"`
	// Latched is why the member must not log in.
	Latched string `json:"latched,omitempty" yaml:"-"`
	// Clears counts how often an operator has cleared its latch, so that every gateway clears its own once.
	Clears int `json:"clears,omitempty" yaml:"-"`
}
