package key

import (
	"fmt"
	"slices"
	"strings"
)

// Algorithm names what a key computes with, in the product's own spelling
// ("aes-256", "ec-p256"). The zero value is no algorithm.
type Algorithm string

// The algorithms Keyway knows. Each is a row of the table below; a new one
// (ML-DSA, say) is one more row, once a token has it.
const (
	AES128     Algorithm = "aes-128"
	AES256     Algorithm = "aes-256"
	HMACSHA256 Algorithm = "hmac-sha-256"
	HMACSHA384 Algorithm = "hmac-sha-384"
	HMACSHA512 Algorithm = "hmac-sha-512"
	RSA2048    Algorithm = "rsa-2048"
	RSA3072    Algorithm = "rsa-3072"
	RSA4096    Algorithm = "rsa-4096"
	ECP256     Algorithm = "ec-p256"
	ECP384     Algorithm = "ec-p384"
	ECP521     Algorithm = "ec-p521"
	Ed25519    Algorithm = "ed25519"
)

// Family groups algorithms that are used in the same way.
type Family uint8

// The families.
const (
	FamilyAES Family = iota + 1
	FamilyHMAC
	FamilyRSA
	FamilyEC
	FamilyEd25519
)

// AlgorithmInfo is one row of the algorithm table.
type AlgorithmInfo struct {
	Algorithm Algorithm
	Family    Family
	// Bits is the AES or HMAC key length, the RSA modulus length or the
	// size of the curve's field.
	Bits int
	// Allowed holds every usage a key of this algorithm may be created with.
	Allowed Usage
	// Default holds the usages of a key created without naming any.
	Default Usage
}

var algorithms = []AlgorithmInfo{
	{AES128, FamilyAES, 128, Encrypt | Decrypt | Wrap | Unwrap, Encrypt | Decrypt | Wrap | Unwrap},
	{AES256, FamilyAES, 256, Encrypt | Decrypt | Wrap | Unwrap, Encrypt | Decrypt | Wrap | Unwrap},
	{HMACSHA256, FamilyHMAC, 256, MAC | VerifyMAC, MAC | VerifyMAC},
	{HMACSHA384, FamilyHMAC, 384, MAC | VerifyMAC, MAC | VerifyMAC},
	{HMACSHA512, FamilyHMAC, 512, MAC | VerifyMAC, MAC | VerifyMAC},
	{RSA2048, FamilyRSA, 2048, Sign | Verify | Encrypt | Decrypt | Wrap | Unwrap, Sign | Verify},
	{RSA3072, FamilyRSA, 3072, Sign | Verify | Encrypt | Decrypt | Wrap | Unwrap, Sign | Verify},
	{RSA4096, FamilyRSA, 4096, Sign | Verify | Encrypt | Decrypt | Wrap | Unwrap, Sign | Verify},
	{ECP256, FamilyEC, 256, Sign | Verify, Sign | Verify},
	{ECP384, FamilyEC, 384, Sign | Verify, Sign | Verify},
	{ECP521, FamilyEC, 521, Sign | Verify, Sign | Verify},
	{Ed25519, FamilyEd25519, 256, Sign | Verify, Sign | Verify},
}

// Algorithms returns the whole table, in its documented order. The caller owns the slice.
func Algorithms() []AlgorithmInfo { return slices.Clone(algorithms) }

// Info returns the row of a, or an error that names every known algorithm.
func (a Algorithm) Info() (AlgorithmInfo, error) {
	for _, r := range algorithms {
		if r.Algorithm == a {
			return r, nil
		}
	}
	names := make([]string, len(algorithms))
	for i, r := range algorithms {
		names[i] = string(r.Algorithm)
	}
	return AlgorithmInfo{}, fmt.Errorf("unknown algorithm %q: use one of %s", string(a), strings.Join(names, ", "))
}

// Asymmetric reports whether keys of a have a public half.
func (a Algorithm) Asymmetric() bool {
	r, err := a.Info()
	return err == nil && (r.Family == FamilyRSA || r.Family == FamilyEC || r.Family == FamilyEd25519)
}
