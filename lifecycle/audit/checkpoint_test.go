package audit

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
)

const origin Origin = "example.com/keyway"

// keys are those of a node, of custody and of a witness.
type keys struct {
	node, custody, witness note.Signer
	vkeys                  []string // in the same order
}

func newKeys(t tb) keys {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, string(origin))
	if err != nil {
		t.Fatal(err)
	}
	node, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	custody, err := NewCustodySigner(string(origin)+"/custody", &ec.PublicKey, token(ec))
	if err != nil {
		t.Fatal(err)
	}
	cvkey, err := ECDSAVerifierKey(string(origin)+"/custody", &ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWitnessSigner("witness.example.com/w1", priv, func() time.Time { return time.Unix(1790000000, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return keys{node, custody, w, []string{vkey, cvkey, WitnessVerifierKey("witness.example.com/w1", pub)}}
}

// token signs as a PKCS#11 token does.
func token(k *ecdsa.PrivateKey) func([]byte) ([]byte, error) {
	return func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		r, s, err := ecdsa.Sign(rand.Reader, k, digest[:])
		if err != nil {
			return nil, err
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
	}
}

func (k keys) trusted(t tb, which ...int) []note.Verifier {
	t.Helper()
	var out []note.Verifier
	for _, i := range which {
		v, err := NewVerifier(k.vkeys[i])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func TestCheckpointIsSignedByAll(t *testing.T) {
	k := newKeys(t)
	c := Checkpoint{origin, 20852163, HashOf([]byte("x")).sum}
	msg, err := c.Sign(k.node, k.custody)
	if err != nil {
		t.Fatal(err)
	}
	if msg, err = AddSignatures(msg, k.witness); err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(msg), "\n— ") != 3 || !strings.HasPrefix(string(msg), "example.com/keyway\n20852163\n") {
		t.Fatalf("%s", msg)
	}
	s, err := OpenCheckpoint(msg, k.trusted(t, 0, 1, 2))
	if err != nil || len(s.Good) != 3 || len(s.Bad)+len(s.Unknown) != 0 || s.Checkpoint != c {
		t.Fatalf("%+v, %v", s, err)
	}
	if s.Good[2].Time.Time().Unix() != 1790000000 || s.Good[0].Time != 0 {
		t.Errorf("the witness signed at %s", s.Good[2].Time)
	}
	if s, err = OpenCheckpoint(msg, k.trusted(t, 1)); err != nil || len(s.Good) != 1 || len(s.Unknown) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	// Any other text, and none of the signatures is good.
	for _, change := range [][2]string{{"20852163", "20852164"}, {"keyway\n", "keywax\n"}} {
		s, err := OpenCheckpoint([]byte(strings.Replace(string(msg), change[0], change[1], 1)), k.trusted(t, 0, 1, 2))
		if err != nil || len(s.Good) != 0 || len(s.Bad) != 3 {
			t.Errorf("%q: %+v, %v", change, s, err)
		}
	}
	// The same signatures by other keys of the same names.
	other := newKeys(t)
	if s, err := OpenCheckpoint(msg, other.trusted(t, 0, 1, 2)); err != nil || len(s.Good) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// A cosignature is over what C2SP says, checked here without this package's verifier.
func TestCosignatureIsThatOfC2SP(t *testing.T) {
	pub, priv, _ := ed25519.GenerateKey(rand.Reader)
	w, err := NewWitnessSigner("w", priv, func() time.Time { return time.Unix(1679315147, 0) })
	if err != nil {
		t.Fatal(err)
	}
	text := "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
	msg, err := note.Sign(&note.Note{Text: text}, w)
	if err != nil {
		t.Fatal(err)
	}
	b64 := strings.Fields(strings.Split(string(msg), "\n— w ")[1])[0]
	raw, _ := base64.StdEncoding.DecodeString(b64)
	want := sha256.Sum256(append([]byte("w\n\x04"), pub...))
	if string(raw[:4]) != string(want[:4]) {
		t.Errorf("key ID %x, want %x", raw[:4], want[:4])
	}
	if len(raw) != 4+8+64 || fmt.Sprintf("%x", raw[4:12]) != "00000000641850cb" {
		t.Fatalf("%x", raw)
	}
	if !ed25519.Verify(pub, []byte("cosignature/v1\ntime 1679315147\n"+text), raw[12:]) {
		t.Error("the signature is over something else")
	}
	// The same key used for plain notes is another key: its signatures do not pass for cosignatures.
	plain, _ := newVerifier(verifierKey("w", algEd25519, pub))
	if plain.KeyHash() == w.KeyHash() || plain.Verify([]byte(text), raw[4:]) {
		t.Error("a cosignature passes for a signature")
	}
}

// Keys of others, of each kind, are read.
func TestVerifierKeysOfOthers(t *testing.T) {
	for _, vkey := range []string{
		"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		"remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
		"rekor.sigstore.dev+c0d23d6a+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNhtmPtrWm3U1eQXBogSMdGvXwBcK5AW5i0hrZLOC96l+smGNM7nwZ4QvFK/4sueRoVj//QP22Ni4Qt9DPfkWLc=",
	} {
		if _, err := NewVerifier(vkey); err != nil {
			t.Errorf("%s: %v", vkey, err)
		}
	}
	for _, vkey := range []string{
		"", "x", "x+00000000", "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW", "PeterNeumanm+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
		"PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq", verifierKey("x", algEd25519, []byte("short")), verifierKey("x", algECDSA, []byte("no key")), verifierKey("x", 6, []byte("another algorithm")),
		"two words+c74f20a3+AQ==",
	} {
		if _, err := NewVerifier(vkey); err == nil {
			t.Errorf("%q was read", vkey)
		}
	}
	k := newKeys(t)
	vs, err := ParseVerifiers("# trusted\n\n" + strings.Join(k.vkeys, "\n"))
	if err != nil || len(vs) != 3 {
		t.Errorf("%d, %v", len(vs), err)
	}
	if _, err := ParseVerifiers("nonsense"); err == nil {
		t.Error("nonsense was read")
	}
}

// A token that signs wrongly puts nothing into the log.
func TestCustodySignerChecksItsToken(t *testing.T) {
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f := func(name string, sign func([]byte) ([]byte, error)) {
		t.Helper()
		s, err := NewCustodySigner("custody", &ec.PublicKey, sign)
		if err != nil {
			t.Fatal(err)
		}
		if msg, err := (Checkpoint{Origin: origin}).Sign(s); err == nil {
			t.Errorf("%s: %s", name, msg)
		}
	}
	f("another key", token(other))
	f("nothing", func([]byte) ([]byte, error) { return nil, nil })
	f("zeros", func([]byte) ([]byte, error) { return make([]byte, 64), nil })
	f("an error", func([]byte) ([]byte, error) { return nil, errors.New("CKR_DEVICE_ERROR") })
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := NewCustodySigner("custody", &p384.PublicKey, token(p384)); err == nil {
		t.Error("a key on another curve was taken")
	}
}

func TestParseCheckpointIsStrict(t *testing.T) {
	good := Checkpoint{origin, 5, HashOf(nil).sum}.Text()
	if _, err := ParseCheckpoint(good); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", strings.Replace(good, "\n5\n", "\n05\n", 1), strings.Replace(good, "\n5\n", "\n-5\n", 1), strings.Replace(good, "\n5\n", "\n+5\n", 1),
		good + "extension\n", strings.TrimSuffix(good, "\n"), "\n" + good, strings.Replace(good, "=", "", 1), strings.Replace(good, "U=", "V=", 1),
		strings.Replace(good, "example.com", "example com", 1),
	} {
		if c, err := ParseCheckpoint(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, c)
		}
	}
	if _, err := (Checkpoint{Origin: origin}).Sign(); err == nil {
		t.Error("a checkpoint without signatures was made")
	}
}

func FuzzOpenCheckpoint(f *testing.F) {
	k := newKeys(f)
	msg, _ := Checkpoint{origin, 3, HashOf(nil).sum}.Sign(k.node, k.custody, k.witness)
	f.Add(msg)
	trusted := k.trusted(f, 0, 1, 2)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := OpenCheckpoint(b, trusted)
		if err == nil && len(s.Good) > 0 && s.Text() != (Checkpoint{origin, 3, HashOf(nil).sum}).Text() {
			t.Fatalf("a forgery: %q", b)
		}
	})
}
