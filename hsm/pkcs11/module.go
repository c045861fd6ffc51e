package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"keyway/hsm"
)

// Config says which token to open, and how.
type Config struct {
	// Module is the path of the PKCS#11 library; see [FindModule].
	Module string
	// TokenLabel and TokenSerial find the token; at least one is needed, and both must match if both are given.
	// Slot numbers change between starts and are never used.
	TokenLabel, TokenSerial string
	// TokenManufacturer and TokenModel must match too if they are given.
	TokenManufacturer, TokenModel string
	// PIN logs in. It stays the caller's. Without one there is no login, which only tokens that want
	// none accept, unless the token has a PIN pad of its own.
	PIN hsm.PIN
	// PINVouched: a person has said that the PIN is right now, so it is tried on a token that says that a wrong one has been
	// tried before. One more wrong PIN away from being locked, the token is left alone all the same.
	PINVouched bool
	// InitArgs is given to C_Initialize as pReserved: NSS wants "configdir='…' …" there. The first
	// C_Initialize in the process decides; later ones are told that it has been done.
	InitArgs string
	// Vendor chooses the vendor profile; "" chooses by what the token says it is.
	Vendor hsm.Vendor
	// Profile is the file of a vendor profile that is used instead of those of the program; "" for theirs. See [ReadProfile].
	Profile string
}

// check names everything a Config lacks for finding a token.
func (c *Config) check() error {
	if c.Module == "" {
		return errors.New("no PKCS#11 module configured: name the path of the vendor's library")
	}
	if c.TokenLabel == "" && c.TokenSerial == "" {
		return fmt.Errorf("no token configured for %s: name it by label or serial number", c.Module)
	}
	return nil
}

// name is how the token is called in messages.
func (c *Config) name() string {
	if c.TokenLabel != "" {
		return fmt.Sprintf("%q", c.TokenLabel)
	}
	return "with serial number " + c.TokenSerial
}

type modulePaths struct {
	kind, install string
	paths         []string
}

var knownModules = []modulePaths{
	{"softhsm", "SoftHSM 2 (Debian, Ubuntu: apt-get install softhsm2; Fedora: dnf install softhsm; Alpine: apk add softhsm; macOS: brew install softhsm)", []string{
		"/usr/lib/softhsm/libsofthsm2.so",                   // Debian, Alpine
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",  // older Debian and Ubuntu
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", // the same on arm64
		"/usr/lib64/pkcs11/libsofthsm2.so",                  // Fedora
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib/pkcs11/libsofthsm2.so", // Arch
		"/usr/local/lib/softhsm/libsofthsm2.so",
		"/opt/homebrew/lib/softhsm/libsofthsm2.so",
	}},
	{"nss", "the NSS libraries (Debian, Ubuntu: apt-get install libnss3; Fedora: dnf install nss-softokn; Alpine: apk add nss; macOS: brew install nss)", []string{
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
		"/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
		"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
		"/usr/lib64/libsoftokn3.so",
		"/usr/lib/libsoftokn3.so",
		"/opt/homebrew/lib/libsoftokn3.dylib",
		"/usr/local/lib/libsoftokn3.dylib",
	}},
}

// FindModule returns the path of an installed software token, "softhsm" or "nss", where the usual
// systems put it. The error says what to install.
func FindModule(kind string) (string, error) {
	var kinds []string
	for _, k := range knownModules {
		kinds = append(kinds, k.kind)
		if k.kind != kind {
			continue
		}
		for _, p := range k.paths {
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
		return "", fmt.Errorf("no PKCS#11 module of %s found at %s: install %s", kind, strings.Join(k.paths, ", "), k.install)
	}
	return "", fmt.Errorf("unknown kind of PKCS#11 module %q: use %s", kind, strings.Join(kinds, " or "))
}
