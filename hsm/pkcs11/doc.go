// Package pkcs11 is the contract of package hsm on a PKCS#11 library loaded
// into this process.
//
// github.com/miekg/pkcs11 initialises the library and lists its slots; what
// happens per operation goes through a small C shim of our own (shim.h), which
// does C_…Init and the operation in one crossing, into the caller's memory,
// without asking for the length first: some tokens answer that wrongly, and on
// tokens across a network it costs a round trip.
//
// A library is never finalised nor unloaded: both race with calls that another
// thread has inside it and are known to crash. Whoever needs a fresh library
// starts a fresh process (hsm/worker).
//
// What tokens do differently from the standard is data, in profile.go.
package pkcs11
