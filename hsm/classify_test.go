package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// inputFunctions are those that look at what a caller sent, so that a code without a meaning may be his.
var inputFunctions = []Function{FnSign, FnEncrypt, FnDecrypt, FnWrap, FnUnwrap, FnCreate, FnGenerate}

// TestClassify has a line for each thing that tokens were seen to do.
func TestClassify(t *testing.T) {
	f := func(want Fault, fn Function, v Vendor, codes ...Code) {
		t.Helper()
		for _, c := range codes {
			if got := Classify(c, fn, v); got != want {
				t.Errorf("%s of %s on %q is a %s fault, want %s", c, fn, v, got, want)
			}
			if e := fmt.Errorf("doing it: %w", &Error{c, fn, v}); FaultOf(e) != want {
				t.Errorf("FaultOf(%v) = %s, want %s", e, FaultOf(e), want)
			}
		}
	}
	// Luna drops sessions at random; a restarted proxy forgets all of them.
	f(Stale, FnSign, VendorLuna, SessionHandleInvalid, SessionClosed)
	// A dead socket or a reset device.
	f(Device, FnSign, VendorGeneric, DeviceError)
	// A pulled or lost token; only a fresh C_Initialize finds it again.
	f(Device, FnSign, VendorLuna, DeviceRemoved, TokenNotPresent, TokenNotRecognized)
	f(Device, FnOpenSession, VendorSoftHSM, TokenNotPresent, SlotIDInvalid)
	// The last session was closed, and the login went with it.
	f(Stale, FnSign, VendorGeneric, UserNotLoggedIn)
	// A handle from before a reconnect; on SoftHSM also how a lost login shows.
	f(Stale, FnSign, VendorSoftHSM, ObjectHandleInvalid, KeyHandleInvalid)
	f(Stale, FnWrap, VendorGeneric, WrappingHandleInvalid)
	f(Stale, FnUnwrap, VendorGeneric, UnwrappingHandleInvalid)
	// Sixteen sessions are all a YubiHSM has.
	f(Busy, FnOpenSession, VendorYubiHSM, SessionCount)
	// CloudHSM's way to say that sessions are opened too fast; elsewhere these arguments are ours and wrong.
	f(Busy, FnOpenSession, VendorCloudHSM, ArgumentsBad)
	f(Device, FnOpenSession, VendorGeneric, ArgumentsBad)
	// An operation that another call left behind; only a new session is rid of it.
	f(Stale, FnSign, VendorGeneric, OperationActive, OperationNotInitialized, OperationCancelFailed, FunctionCanceled)
	// CloudHSM under a parallel start; session objects that leak.
	f(Busy, FnCreate, VendorCloudHSM, DeviceMemory, HostMemory)
	f(Busy, FnUnwrap, VendorSoftHSM, DeviceMemory, HostMemory, TokenResourceExceeded)
	// FUNCTION_FAILED: CloudHSM throttles, a YubiHSM's connector is down, nShield got a bad ciphertext.
	f(Busy, FnSign, VendorCloudHSM, FunctionFailed)
	f(Busy, FnDecrypt, VendorCloudHSM, FunctionFailed)
	f(Device, FnOpenSession, VendorYubiHSM, FunctionFailed)
	f(Device, FnLogin, VendorYubiHSM, FunctionFailed)
	f(Device, FnRandom, VendorYubiHSM, FunctionFailed)
	f(Suspect, FnSign, VendorYubiHSM, FunctionFailed)
	f(Suspect, FnDecrypt, VendorNShield, FunctionFailed)
	// GENERAL_ERROR: a changed ciphertext on SoftHSM, an oversized digest, parallel key generation; and tpm2-pkcs11 whose context is broken.
	f(Suspect, FnDecrypt, VendorSoftHSM, GeneralError)
	f(Suspect, FnUnwrap, VendorSoftHSM, GeneralError)
	f(Suspect, FnSign, VendorNSS, GeneralError)
	f(Suspect, FnGenerate, VendorSoftHSM, GeneralError)
	f(Device, FnLogin, VendorTPM, GeneralError)
	// SafeNet's client after an idle time; a client after fork.
	f(Device, FnSign, VendorLuna, CryptokiNotInitialized)
	// A wrong answer to a length query leaves the operation pending.
	f(Stale, FnEncrypt, VendorNSS, BufferTooSmall)
	// A second wrong PIN may be the last one.
	f(Locked, FnLogin, VendorGeneric, PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked, PinTooWeak, UserPinNotInitialized,
		UserAnotherLoggedIn, UserTooManyTypes, UserTypeInvalid)
	f(Locked, FnSign, VendorGeneric, PinLocked)
	// Success at C_Login, as drivers know; elsewhere the login is not ours.
	f(Stale, FnLogin, VendorSoftHSM, UserAlreadyLoggedIn)
	// What NSS says of bad input, where SoftHSM says GENERAL_ERROR.
	f(Caller, FnDecrypt, VendorNSS, EncryptedDataInvalid, EncryptedDataLenRange, AEADDecryptFailed)
	f(Caller, FnSign, VendorNSS, DataInvalid, DataLenRange, FunctionRejected)
	f(Caller, FnOther, VendorNSS, SignatureInvalid, SignatureLenRange)
	f(Caller, FnUnwrap, VendorNSS, WrappedKeyInvalid, WrappedKeyLenRange)
	f(Caller, FnCreate, VendorNSS, PublicKeyInvalid)
	f(Caller, FnWrap, VendorNSS, KeyNotWrappable, KeyUnextractable)
	f(Caller, FnGetAttribute, VendorNSS, AttributeSensitive)
	// What this token does not take, another may.
	f(Object, FnSign, VendorGeneric, MechanismInvalid, MechanismParamInvalid, FunctionNotSupported, CurveNotSupported, DomainParamsInvalid)
	f(Object, FnSign, VendorGeneric, KeyFunctionNotPermitted, KeyTypeInconsistent, KeySizeRange, KeyExhausted, ActionProhibited)
	f(Object, FnUnwrap, VendorNSS, TemplateIncomplete, TemplateInconsistent, AttributeTypeInvalid, AttributeValueInvalid, AttributeReadOnly,
		UnwrappingKeySizeRange, UnwrappingTypeInconsistent)
	f(Object, FnWrap, VendorGeneric, WrappingKeySizeRange, WrappingTypeInconsistent)
	// A library that cannot work here, or a token that must not be written.
	f(Device, FnInitialize, VendorGeneric, CantLock, MutexBad, MutexNotLocked, NeedToCreateThreads, LibraryLoadFailed, CryptokiInitialized)
	f(Device, FnRandom, VendorGeneric, RandomNoRNG, FIPSSelfTestFailed)
	f(Device, FnCreate, VendorGeneric, TokenWriteProtected, SessionReadOnly)
	// Vendors' own codes and unknown ones: ask a canary.
	f(Suspect, FnSign, VendorLuna, VendorDefined|0x1A)
	f(Suspect, FnOpenSession, "homemade", VendorDefined, 0x666)

	if got := Classify(OK, FnSign, VendorGeneric); got != 0 {
		t.Errorf("success is a %s fault", got)
	}
}

// TestEveryNamedCodeIsClassifiedOnPurpose: a code with a name has a row for every function on every vendor's token, and is
// Suspect only where its meaning is known to be none.
func TestEveryNamedCodeIsClassifiedOnPurpose(t *testing.T) {
	vendors := []Vendor{VendorGeneric, VendorSoft, VendorSoftHSM, VendorNSS, VendorLuna, VendorNShield, VendorCloudHSM, VendorYubiHSM, VendorTPM, VendorNetHSM, "homemade"}
	for c, name := range codeNames {
		for fn := range Function(len(functionNames)) {
			for _, v := range vendors {
				fault := Classify(c, fn, v)
				switch {
				case (fault == 0) != (c == OK):
					t.Errorf("%s of %s on %q is no fault", name, fn, v)
				case fault == Suspect && (!slices.Contains(ambiguous, c) || !slices.Contains(inputFunctions, fn)):
					t.Errorf("%s of %s on %q is Suspect, though nobody meant it", name, fn, v)
				case c != OK && !slices.ContainsFunc(verdicts, func(r verdict) bool { return slices.Contains(r.codes, c) }):
					t.Errorf("%s has no row", name)
				}
			}
		}
	}
	for i, r := range verdicts { // nor is a row for nothing
		for _, c := range r.codes {
			if _, named := codeNames[c]; !named {
				t.Errorf("row %d: code 0x%X has no name", i, uint64(c))
			}
		}
	}
}

func TestFaultOfEveryError(t *testing.T) {
	f := func(err error, want Fault) {
		t.Helper()
		if got := FaultOf(err); got != want {
			t.Errorf("FaultOf(%v) = %s, want %s", err, got, want)
		}
		if err == nil {
			return
		}
		if got := FaultOf(fmt.Errorf("member a: %w", err)); got != want {
			t.Errorf("FaultOf(%v), wrapped, = %s, want %s", err, got, want)
		}
	}
	f(nil, 0)
	f(ErrNotFound, Object)
	f(ErrAmbiguous, Object)
	f(ErrUnsupported, Object)
	f(ErrClosed, Stale)
	f(ErrLinkLost, Device)
	f(ErrHung, Device)
	f(ErrInput, Caller)
	f(ErrSignature, Caller)
	f(context.DeadlineExceeded, Device)
	f(errors.New("what nobody foresaw"), Device)
	f(fmt.Errorf("%w: %w", ErrInput, &Error{Code: PinLocked, Function: FnLogin}), Locked) // the code decides
}

func TestNamesInLogs(t *testing.T) {
	f := func(got fmt.Stringer, want string) {
		t.Helper()
		if got.String() != want {
			t.Errorf("%#v is called %q, want %q", got, got, want)
		}
	}
	f(PinIncorrect, "CKR_PIN_INCORRECT (0xA0)")
	f(UnwrappingTypeInconsistent, "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT (0xF2)")
	f(VendorDefined|0x1A, "a vendor-defined code (0x8000001A)")
	f(Code(0x666), "an unknown code (0x666)")
	f(FnSign, "C_Sign")
	f(Function(200), "a PKCS#11 call")
	for fault, want := range map[Fault]string{0: "none", Caller: "caller", Object: "object", Stale: "stale", Busy: "busy", Device: "device", Suspect: "suspect", Locked: "locked", 99: "none"} {
		f(fault, want)
	}
	if got := (&Error{PinLocked, FnLogin, VendorLuna}).Error(); got != "C_Login returned CKR_PIN_LOCKED (0xA4)" {
		t.Errorf("an error reads %q", got)
	}
	seen := map[string]Code{}
	for c, n := range codeNames {
		if other, twice := seen[n]; twice || strings.ToUpper(n) != n {
			t.Errorf("%s is the name of 0x%X and 0x%X", n, uint64(c), uint64(other))
		}
		seen[n] = c
	}
}
