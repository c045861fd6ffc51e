//go:build cgo

package pkcs11

import (
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

func TestATokensClockIsReadAsTheStandardWritesIt(t *testing.T) {
	const has = pkcs11.CKF_CLOCK_ON_TOKEN
	at := time.Date(2026, 2, 28, 23, 59, 58, 0, time.UTC)
	for _, c := range []struct {
		flags uint
		utc   string
		want  time.Time
	}{
		{has, "2026022823595800", at}, {has, "2026022823595877", at}, {has | pkcs11.CKF_RNG, "20260228235958", at},
		{0, "2026022823595800", time.Time{}}, // without the flag the text means nothing
		{has, "", time.Time{}}, {has, "0000000000000000", time.Time{}}, {has, "2026023023595800", time.Time{}}, {has, "20260228", time.Time{}},
	} {
		if got := clockOf(c.flags, c.utc); !got.Equal(c.want) || got.IsZero() != c.want.IsZero() {
			t.Errorf("flags %#x, %q: %s, want %s", c.flags, c.utc, got, c.want)
		}
	}
}

// Neither software token says that it has a clock, though SoftHSM writes a time.
func TestRealTokensHaveNoClock(t *testing.T) {
	for _, k := range kinds {
		if got := openToken(t, k.cfg(t)).Info().Clock; !got.IsZero() {
			t.Errorf("%s has a clock that shows %s", k.name, got)
		}
	}
}
