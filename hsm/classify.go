package hsm

import "slices"

// The vendors whose tokens are judged by rows of their own.
const (
	VendorGeneric  Vendor = ""
	VendorSoft     Vendor = "keyway-soft"
	VendorSoftHSM  Vendor = "softhsm"
	VendorNSS      Vendor = "nss"
	VendorLuna     Vendor = "luna"
	VendorNShield  Vendor = "nshield"
	VendorCloudHSM Vendor = "cloudhsm"
	VendorYubiHSM  Vendor = "yubihsm"
	VendorTPM      Vendor = "tpm"
	VendorNetHSM   Vendor = "nethsm"
)

// verdict is one row of the table: the fault of some codes, for some functions
// and vendors only where it says so. The first row that fits decides, so
// narrow rows stand above wide ones.
type verdict struct {
	codes     []Code
	functions []Function
	vendors   []Vendor
	fault     Fault
}

var verdicts = []verdict{
	// AWS documents FUNCTION_FAILED as throttling, and answers sessions opened too fast with ARGUMENTS_BAD.
	{[]Code{FunctionFailed}, nil, []Vendor{VendorCloudHSM}, Busy},
	{[]Code{ArgumentsBad}, []Function{FnOpenSession}, []Vendor{VendorCloudHSM}, Busy},
	// The YubiHSM connector is down when it says FUNCTION_FAILED to anything that needs no input.
	{[]Code{FunctionFailed}, []Function{FnOpenSession, FnLogin, FnRandom, FnInitialize}, []Vendor{VendorYubiHSM}, Device},

	// PIN trouble, whoever meets it: a second try could lock the token.
	{[]Code{PinIncorrect, PinInvalid, PinLenRange, PinExpired, PinLocked, PinTooWeak, UserPinNotInitialized, UserAnotherLoggedIn, UserTooManyTypes,
		UserTypeInvalid}, nil, nil, Locked},

	// What was ours is gone: session, handle or login. Drivers take "already logged in" for success; when it comes
	// up nevertheless, the login is not the one we know.
	{[]Code{SessionHandleInvalid, SessionClosed, UserNotLoggedIn, UserAlreadyLoggedIn, KeyHandleInvalid, ObjectHandleInvalid, UnwrappingHandleInvalid,
		WrappingHandleInvalid, OperationActive, OperationNotInitialized, OperationCancelFailed, BufferTooSmall, FunctionCanceled}, nil, nil, Stale},

	{[]Code{SessionCount, HostMemory, DeviceMemory, TokenResourceExceeded}, nil, nil, Busy},

	{[]Code{DeviceError, DeviceRemoved, TokenNotPresent, TokenNotRecognized, CryptokiNotInitialized, CryptokiInitialized, SlotIDInvalid, CantLock, MutexBad,
		MutexNotLocked, NeedToCreateThreads, LibraryLoadFailed, FIPSSelfTestFailed, RandomNoRNG, TokenWriteProtected, SessionReadOnly}, nil, nil, Device},

	// A blob or template that this token does not take may suit another one.
	{[]Code{MechanismInvalid, MechanismParamInvalid, FunctionNotSupported, CurveNotSupported, TemplateIncomplete, TemplateInconsistent, AttributeTypeInvalid,
		AttributeValueInvalid, AttributeReadOnly, DomainParamsInvalid}, nil, nil, Object},
	{[]Code{KeyFunctionNotPermitted, KeyTypeInconsistent, KeySizeRange, KeyExhausted, WrappingKeySizeRange, WrappingTypeInconsistent, UnwrappingKeySizeRange,
		UnwrappingTypeInconsistent, ActionProhibited}, nil, nil, Object},

	{[]Code{DataInvalid, DataLenRange, EncryptedDataInvalid, EncryptedDataLenRange, AEADDecryptFailed, SignatureInvalid, SignatureLenRange,
		WrappedKeyInvalid, WrappedKeyLenRange, PublicKeyInvalid, KeyNotWrappable, KeyUnextractable, AttributeSensitive, FunctionRejected}, nil, nil, Caller},

	// The same code is a bad ciphertext on one token and a dying device on the next: where input is
	// looked at, a template included, only a canary can tell; where there is none to look at, it is the device.
	{ambiguous, []Function{FnSign, FnEncrypt, FnDecrypt, FnWrap, FnUnwrap, FnCreate, FnGenerate}, nil, Suspect},
	{ambiguous, nil, nil, Device},
}

var ambiguous = []Code{GeneralError, FunctionFailed, ArgumentsBad}

// Classify returns who is to blame for code c of function f on a token of vendor v. Codes that no
// row knows, vendor-defined ones among them, are Suspect. OK is no fault.
//
// The table follows what tokens were seen to do in the field, not the
// standard's wording; docs/design/pool.md names the sources.
func Classify(c Code, f Function, v Vendor) Fault {
	if c == OK {
		return 0
	}
	for i := range verdicts {
		r := &verdicts[i]
		if slices.Contains(r.codes, c) && (r.functions == nil || slices.Contains(r.functions, f)) && (r.vendors == nil || slices.Contains(r.vendors, v)) {
			return r.fault
		}
	}
	return Suspect
}

var faultNames = [...]string{Caller: "caller", Object: "object", Stale: "stale", Busy: "busy", Device: "device", Suspect: "suspect", Locked: "locked"}

// String returns the fault's name as it appears in metrics and logs, "none" for 0.
func (f Fault) String() string {
	if f == 0 || int(f) >= len(faultNames) {
		return "none"
	}
	return faultNames[f]
}
