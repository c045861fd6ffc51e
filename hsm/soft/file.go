package soft

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"keyway/hsm"
)

// iterations is the cost of deriving the file's key from the PIN: what OWASP's password storage cheat sheet
// of 2023 asks of PBKDF2 with HMAC-SHA-256.
const iterations = 600_000

// file is where a token's token objects are: JSON, sealed by AES-256-GCM under a key derived from the PIN.
type file struct {
	path string
	salt []byte
	cost int // iterations
	aead cipher.AEAD
}

// sealed is the file's content.
type sealed struct {
	Label      string `json:"label"`
	Iterations int    `json:"iterations"`
	Salt       []byte `json:"salt"`
	Sealed     []byte `json:"sealed"`
}

// stored is one object in the sealed part.
type stored struct {
	Spec     hsm.Spec `json:"spec"`
	Material []byte   `json:"material"`
}

func pathOf(dir, label string) string { return filepath.Join(dir, label+".token") }

// Init makes a token called label in dir, with the given PIN. It refuses to replace one.
func Init(dir, label string, pin hsm.PIN) error {
	if label == "" || filepath.Base(label) != label {
		return fmt.Errorf("token label %q: use a plain name", label)
	}
	if len(pin.Reveal()) < 4 {
		return errors.New("a new token needs a PIN of at least 4 bytes")
	}
	path := pathOf(dir, label)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("token %s exists already: choose another label", path)
	}
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand documents it)
	f, err := derive(path, salt[:], iterations, pin)
	if err != nil {
		return err
	}
	t := New(label)
	t.file = f
	return t.save()
}

// derive makes the file's key of the PIN. Go's PBKDF2 copies the PIN to where nobody can wipe it; but this token keeps
// its keys in the same memory.
func derive(path string, salt []byte, n int, pin hsm.PIN) (*file, error) {
	key, err := pbkdf2.Key(sha256.New, string(pin.Reveal()), salt, n, 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(b)
	return &file{path: path, salt: salt, cost: n, aead: a}, err
}

// Open opens the token called label in dir. A wrong PIN is CKR_PIN_INCORRECT of C_Login, as from any token.
func Open(dir, label string, pin hsm.PIN) (*Token, error) {
	path := pathOf(dir, label)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("embedded token: %w", err)
	}
	var s sealed
	if err := json.Unmarshal(b, &s); err != nil || s.Iterations < 1 || s.Iterations > 100*iterations {
		return nil, fmt.Errorf("embedded token %s: the file is damaged: restore it from a backup", path)
	}
	f, err := derive(path, s.Salt, s.Iterations, pin)
	if err != nil {
		return nil, err
	}
	if len(s.Sealed) < f.aead.NonceSize() {
		return nil, fmt.Errorf("embedded token %s: the file is damaged: restore it from a backup", path)
	}
	clearText, err := f.aead.Open(nil, s.Sealed[:f.aead.NonceSize()], s.Sealed[f.aead.NonceSize():], []byte(s.Label))
	if err != nil {
		return nil, fault(hsm.PinIncorrect, hsm.FnLogin)
	}
	defer clear(clearText)
	var all []stored
	if err := json.Unmarshal(clearText, &all); err != nil {
		return nil, fmt.Errorf("embedded token %s: the file is damaged: restore it from a backup", path)
	}
	t := New(s.Label)
	t.file = f
	for _, o := range all {
		obj, err := build(o.Spec, o.Material)
		clear(o.Material)
		if err != nil {
			return nil, fmt.Errorf("embedded token %s: an object does not parse: %w", path, err)
		}
		t.objects[hsm.Handle(t.next.Add(1))] = obj
	}
	return t, nil
}

// save writes the token objects: a new file, synced, then in the old one's place. The caller holds mu.
func (t *Token) save() error {
	if t.file == nil {
		return nil
	}
	all := []stored{}
	defer func() {
		for _, s := range all {
			clear(s.Material)
		}
	}()
	for _, o := range t.objects {
		if o.spec.Token {
			m, err := o.material()
			if err != nil {
				return err
			}
			all = append(all, stored{o.spec, m})
		}
	}
	clearText, err := json.Marshal(all)
	if err != nil {
		return err
	}
	defer clear(clearText)
	nonce := make([]byte, t.file.aead.NonceSize())
	_, _ = rand.Read(nonce)
	b, err := json.Marshal(sealed{t.info.Label, t.file.cost, t.file.salt, t.file.aead.Seal(nonce, nonce, clearText, []byte(t.info.Label))})
	if err != nil {
		return err
	}
	if err := replace(t.file.path, b); err != nil {
		return fmt.Errorf("embedded token: %w", err)
	}
	return nil
}

// replace puts b in the place of a file, so that a crash leaves the old one or the new one.
func replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
