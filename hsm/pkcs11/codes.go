package pkcs11

import (
	"fmt"

	"keyway/hsm"
)

// gone reports whether the handle names nothing of ours any more. It must not
// even be closed: after a new start a library hands out the same numbers again.
func gone(c hsm.Code) bool {
	return c == hsm.SessionHandleInvalid || c == hsm.SessionClosed || c == hsm.CryptokiNotInitialized
}

// hashNumbers are a digest's numbers in PSS and OAEP parameters.
type hashNumbers struct {
	mechanism, mgf uint32
	size           int
}

var hashTable = [...]hashNumbers{
	hsm.SHA1:   {0x220, 1, 20},
	hsm.SHA256: {0x250, 2, 32},
	hsm.SHA384: {0x260, 3, 48},
	hsm.SHA512: {0x270, 4, 64},
}

func hashOf(h hsm.Hash) hashNumbers {
	if int(h) < len(hashTable) {
		return hashTable[h]
	}
	return hashNumbers{}
}

// digestInfo is the DER that precedes a digest in an RSASSA-PKCS1-v1_5 signature (RFC 8017, 9.2, note 1).
var digestInfo = [...][]byte{
	hsm.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	hsm.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	hsm.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

func refused(format string, a ...any) error {
	return fmt.Errorf("%w: %s", hsm.ErrInput, fmt.Sprintf(format, a...))
}
