//go:build cgo

package pkcs11

// Usable returns nil where this build of the program can load PKCS#11 libraries, else why it cannot.
func Usable() error { return nil }
