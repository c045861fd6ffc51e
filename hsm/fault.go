package hsm

import (
	"errors"
	"fmt"
)

// Fault says who is to blame for a failure, which decides what happens next.
type Fault uint8

// The faults. The zero value is no fault.
const (
	Caller  Fault = iota + 1 // bad input: answer, never retry, never trip
	Object                   // key unusable on this token: another member, placement alarm
	Stale                    // session, handle or login lost: reopen, retry once
	Busy                     // capacity: back off, another member, never trip
	Device                   // token or link failing: trip, go elsewhere
	Suspect                  // ambiguous code: ask a canary, then Caller or Device
	Locked                   // PIN trouble: latch the member, wake an operator, never log in again by itself
)

// Vendor names a vendor profile; "" is the generic one.
type Vendor string

// Code is a CK_RV.
type Code uint64

// Function is the PKCS#11 function that returned a code.
type Function uint8

// The functions whose codes are told apart.
const (
	FnOther Function = iota
	FnInitialize
	FnOpenSession
	FnLogin
	FnFind
	FnGetAttribute
	FnSign
	FnEncrypt
	FnDecrypt
	FnWrap
	FnUnwrap
	FnGenerate
	FnCreate
	FnDestroy
	FnRandom
)

// Error is a code a token gave, with where it gave it. It never holds key material or input.
type Error struct {
	Code     Code
	Function Function
	Vendor   Vendor
}

// Error tells the standard's name of the code and of the function.
func (e *Error) Error() string {
	return fmt.Sprintf("%s returned %s", e.Function, e.Code)
}

// Fault looks the error up in the table.
func (e *Error) Fault() Fault { return Classify(e.Code, e.Function, e.Vendor) }

// EndsSession reports whether a session that was answered with c must not be used again.
func (c Code) EndsSession() bool {
	switch c {
	case SessionHandleInvalid, SessionClosed, UserNotLoggedIn, DeviceError,
		// A pending operation can only be cancelled by closing the session; calling on would finish it with the wrong key.
		OperationActive, OperationNotInitialized,
		// Tried twice with room to spare: the operation is still pending.
		BufferTooSmall:
		return true
	}
	return c.EndsToken()
}

// EndsToken reports whether c says that the token, or what its library knew of it, is gone: another session does not help, only
// opening the token anew, with a C_Initialize of its own where it runs in a process of its own.
func (c Code) EndsToken() bool {
	switch c {
	case DeviceRemoved, TokenNotPresent, TokenNotRecognized, CryptokiNotInitialized, SlotIDInvalid:
		return true
	}
	return false
}

// CodeOf returns the code in err, OK when it holds none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return OK
}

// Errors that are not a token's codes.
var (
	// ErrNotFound: no such object. An Object fault.
	ErrNotFound = errors.New("no such object on the token")
	// ErrAmbiguous: several objects where one was wanted. An Object fault.
	ErrAmbiguous = errors.New("several such objects on the token")
	// ErrClosed: the session or token was closed. A Stale fault.
	ErrClosed = errors.New("session or token closed")
	// ErrLinkLost: the process behind the token has ended. A Device fault.
	ErrLinkLost = errors.New("the token's worker process is gone")
	// ErrHung: the operation ran longer than its limit and was given up. A Device fault.
	ErrHung = errors.New("the token did not answer within the operation's limit")
	// ErrUnsupported: the token lacks the mechanism. An Object fault: another member may have it.
	ErrUnsupported = errors.New("the token lacks the mechanism")
	// ErrInput: refused before it reached the token. A Caller fault.
	ErrInput = errors.New("input refused")
)

// FaultOf returns who is to blame for err: 0 for nil, the table's answer for an [*Error], the fault
// named at each sentinel of this package, and Device for everything else, since an error nobody foresaw is the member's.
func FaultOf(err error) Fault {
	if err == nil { // the common case, before e is allocated
		return 0
	}
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Fault()
	case errors.Is(err, ErrInput):
		return Caller
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrAmbiguous), errors.Is(err, ErrUnsupported):
		return Object
	case errors.Is(err, ErrClosed):
		return Stale
	}
	return Device
}
