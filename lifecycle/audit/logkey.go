package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// TreeHash is a hash of the tree, and HashReader reads stored ones by their index, and Verifier is a public key, so that others need not know the packages tlog and note.
type (
	TreeHash   = tlog.Hash
	HashReader = tlog.HashReader
	Verifier   = note.Verifier
)

// LogKey is the key a node signs checkpoints with (Ed25519). It is the node's own: whoever has it can sign any history, which is
// what earlier checkpoints and other signatures are for.
type LogKey struct {
	note.Signer
	verifier string
	public   Hash
}

// NewLogKey makes a key for the node called name, and returns it as it is kept: a secret.
func NewLogKey(name Principal) (secret string, err error) {
	if err := name.check(); err != nil {
		return "", fmt.Errorf("audit: log key: %w", err)
	}
	secret, _, err = note.GenerateKey(rand.Reader, string(name))
	return secret, err
}

// ParseLogKey reads what NewLogKey returns. No error tells any of it.
func ParseLogKey(secret string) (*LogKey, error) {
	secret = strings.TrimSpace(secret)
	s, err := note.NewSigner(secret)
	parts := strings.Split(secret, "+")
	if err != nil || len(parts) < 5 {
		return nil, errors.New("audit: this is no log key: it was changed, or is another kind of file")
	}
	// PRIVATE+KEY+name+hash+algorithm‖seed, the last of which may have a plus of its own.
	raw, err := base64.StdEncoding.DecodeString(strings.Join(parts[4:], "+"))
	if err != nil || len(raw) != 1+ed25519.SeedSize || raw[0] != algEd25519 {
		return nil, errors.New("audit: this is no log key of Ed25519")
	}
	public := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("audit: log key: %w", err)
	}
	return &LogKey{s, verifierKey(s.Name(), algEd25519, public), HashOf(der)}, nil
}

// VerifierKey returns the public key as verifiers write it: name+hash+key.
func (k *LogKey) VerifierKey() string { return k.verifier }

// Public returns the hash of the public key's SubjectPublicKeyInfo.
func (k *LogKey) Public() Hash { return k.public }
