// Package hsm is the contract of a cryptographic token, as PKCS#11 means the
// word: what the pool asks of it, in which words, and who is to blame when it
// fails. Its drivers are hsm/pkcs11 (a library in this process), hsm/worker
// (any token, in a process of its own) and hsm/soft (Go's standard
// cryptography). hsm/hsmtest is the suite that each of them passes.
//
// Numbers (mechanisms, return codes) are those of PKCS#11 3.1 (OASIS,
// pkcs11-spec-v3.1), so that a log line can be looked up in the standard.
package hsm

import (
	"context"
	"io"
	"time"
)

// Token is one initialised token: found by serial or label, opened and logged
// in. It is safe for concurrent use.
type Token interface {
	// OpenSession opens one more session. The session lives until its Close or the Token's.
	// ctx bounds the wait, and one that has ended opens nothing; a call that hangs inside a library goes on after ctx has ended.
	OpenSession(ctx context.Context) (Session, error)
	// Info tells what the token is and can do. It does no I/O.
	Info() Info
	// Close ends every session and the login. It is safe to call twice.
	io.Closer
}

// Process is implemented by a Token that runs in a process of its own.
type Process interface {
	// PID is the process id, for people and for tests.
	PID() int
	// Kill ends the process at once, whatever it is doing; every session's Do returns [ErrLinkLost].
	// It does not wait.
	Kill()
	// Done is closed when the process has ended, for whatever reason.
	Done() <-chan struct{}
}

// Session is one session on a token. It is not safe for concurrent use.
type Session interface {
	// Do runs op. What became of it is in op.Out and op.Err; Do itself returns an error
	// (one whose [FaultOf] is Stale or Device) only when the session is lost and must not be used again.
	// Do may keep op.In and the AAD until it returns, no longer, and does not change them.
	//
	// Whatever a caller can send, the fault is never Device: it is Caller, or Suspect where the token's
	// code means nothing; Object where key and operation do not go together; Stale for a handle of nothing.
	Do(op *Op) error
	// Find returns the one object of class c whose CKA_ID is id. [ErrNotFound] when there is
	// none, [ErrAmbiguous] when there are several, [ErrInput] for an empty id.
	Find(c Class, id []byte) (Handle, error)
	// Close closes the session. Session objects it made are gone. It is safe to call twice.
	io.Closer
}

// Keeper is a Session that may change what is on the token. All shipped drivers' sessions are Keepers.
type Keeper interface {
	Session
	// Generate makes a key, or a pair, after s and returns the secret or private object. The public
	// object of a pair exists on the token only if s.Token is set.
	Generate(s Spec) (Handle, error)
	// Public returns the SubjectPublicKeyInfo (DER) of the pair whose private object is h, as
	// made by Generate on this session or as found on the token under the same CKA_ID, or of the public object h.
	// ErrNotFound when the public half is not to be had.
	Public(h Handle) ([]byte, error)
	// Import makes an object from clear material: raw bytes for a secret key, PKCS#8 DER for a private key,
	// SubjectPublicKeyInfo DER for s.Class == ClassPublic. The caller wipes material afterwards.
	Import(s Spec, material []byte) (Handle, error)
	// WrapKey wraps key, which must be Extractable, under kek, which may wrap: under an AES key with AES_KEY_WRAP or
	// AES_KEY_WRAP_KWP, or a secret key under a public RSA key with RSA_PKCS_OAEP. Secret keys travel as
	// they are, private keys as PKCS#8, padded with zeros to a multiple of 8 for AES_KEY_WRAP.
	WrapKey(kek Handle, m Mechanism, key Handle) ([]byte, error)
	// UnwrapKey makes an object from a blob of WrapKey, this token's or another's. A blob that does not open, or
	// not to a key after s, is a Caller fault, or a Suspect one where the token's code means nothing.
	UnwrapKey(kek Handle, m Mechanism, blob []byte, s Spec) (Handle, error)
	// Destroy destroys an object, and with a pair made by Generate on the token its public half.
	Destroy(h Handle) error
}

// Handle is an object's handle. It means something only on the token, and in the login session, that gave it, there
// in every session. 0 is none.
type Handle uint64

// Class is an object's CKA_CLASS.
type Class uint8

// The classes, with the numbers of CKO_PUBLIC_KEY, CKO_PRIVATE_KEY and CKO_SECRET_KEY.
const (
	ClassPublic  Class = 2
	ClassPrivate Class = 3
	ClassSecret  Class = 4
)

// Info says what a token is and can do. It is a value; its map must not be changed.
type Info struct {
	Label        string `json:"label"`
	Serial       string `json:"serial"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
	// Vendor is the profile that was chosen for the token.
	Vendor Vendor `json:"vendor"`
	// Mechanisms holds what the token lists and Keyway can use, less what the vendor profile knows to be broken.
	Mechanisms map[MechanismType]MechanismInfo `json:"mechanisms"`
	// OAEPHashes are the hashes RSA OAEP may be used with, strongest first.
	OAEPHashes []Hash `json:"oaep_hashes,omitempty"`
	// MaxSessions is how many sessions may be open at once, 0 when the token does not say.
	MaxSessions int `json:"max_sessions"`
	// OpenPerSecond is how fast sessions may be opened, 0 for no limit.
	OpenPerSecond int `json:"open_per_second"`
	// Clock is what the token's clock showed, in UTC, when the token was opened; zero when it has no clock.
	Clock time.Time `json:"clock,omitzero"`
	// MaxObjects is how many session objects the token may hold for Keyway, 0 when not known.
	MaxObjects int `json:"max_objects"`
	// Concurrency is how many operations at once give the token's best rate, 0 when not known.
	Concurrency int `json:"concurrency,omitempty"`
	// IdleTimeout is how long a session may be silent before the token closes it, 0 for ever.
	IdleTimeout time.Duration `json:"idle_timeout,omitempty"`
	// SlowestCall is how long a call may take though the token is well, 0 when not known.
	SlowestCall time.Duration `json:"slowest_call,omitempty"`
}

// MechanismInfo holds the key sizes of one mechanism, in the unit the standard gives it.
type MechanismInfo struct {
	Min uint64 `json:"min"`
	Max uint64 `json:"max"`
}

// Has reports whether the token can use m.
func (i Info) Has(m MechanismType) bool {
	_, ok := i.Mechanisms[m]
	return ok
}
