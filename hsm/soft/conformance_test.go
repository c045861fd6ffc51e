package soft

import (
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
)

func TestConformance(t *testing.T) {
	dir, pin := t.TempDir(), hsm.NewPIN([]byte("1234"))
	if err := Init(dir, "token", pin); err != nil {
		t.Fatal(err)
	}
	hsmtest.TestToken(t, func(t testing.TB) hsm.Token {
		tok, err := Open(dir, "token", pin)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	})
}

func TestWycheproofVectors(t *testing.T) { hsmtest.TestVectors(t, New("vectors")) }
