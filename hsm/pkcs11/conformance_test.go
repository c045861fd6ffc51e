//go:build cgo

package pkcs11

import (
	"testing"

	"keyway/hsm"
	"keyway/hsm/hsmtest"
	"keyway/hsm/soft"
)

func TestConformance(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			c := k.cfg(t)
			hsmtest.TestToken(t, func(t testing.TB) hsm.Token {
				tok, err := Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return tok
			})
		})
	}
}

// TestKeysTravel: a key wrapped on one vendor's token is at home on another's that holds the same KEK.
func TestKeysTravel(t *testing.T) {
	tokens := map[string]hsm.Token{"softhsm": openToken(t, softHSM(t)), "nss": openToken(t, nss(t)), "soft": soft.New("traveller")}
	for from, a := range tokens {
		for to, b := range tokens {
			t.Run(from+"-"+to, func(t *testing.T) { hsmtest.TestTravel(t, a, b) })
		}
	}
}

// No token here accepts an invalid vector; one that does is named with the vector.
func TestWycheproofVectors(t *testing.T) {
	everyToken(t, func(t *testing.T, tok *Token) { hsmtest.TestVectors(t, tok) })
}
