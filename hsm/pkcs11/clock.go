//go:build cgo

package pkcs11

import (
	"time"

	"github.com/miekg/pkcs11"
)

// clockOf reads what the token's clock shows (CK_TOKEN_INFO.utcTime, YYYYMMDDhhmmssxx, where xx means nothing), zero for a token that
// has none or tells no time.
func clockOf(flags uint, utc string) time.Time {
	const form = "20060102150405"
	if flags&pkcs11.CKF_CLOCK_ON_TOKEN == 0 || len(utc) < len(form) {
		return time.Time{}
	}
	at, err := time.Parse(form, utc[:len(form)])
	if err != nil {
		return time.Time{}
	}
	return at
}
