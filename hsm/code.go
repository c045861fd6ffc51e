package hsm

import "fmt"

// The return codes Keyway knows by name, with the numbers of PKCS#11 3.1.
const (
	OK                         Code = 0x000
	HostMemory                 Code = 0x002
	SlotIDInvalid              Code = 0x003
	GeneralError               Code = 0x005
	FunctionFailed             Code = 0x006
	ArgumentsBad               Code = 0x007
	NeedToCreateThreads        Code = 0x009
	CantLock                   Code = 0x00A
	AttributeReadOnly          Code = 0x010
	AttributeSensitive         Code = 0x011
	AttributeTypeInvalid       Code = 0x012
	AttributeValueInvalid      Code = 0x013
	ActionProhibited           Code = 0x01B
	DataInvalid                Code = 0x020
	DataLenRange               Code = 0x021
	DeviceError                Code = 0x030
	DeviceMemory               Code = 0x031
	DeviceRemoved              Code = 0x032
	EncryptedDataInvalid       Code = 0x040
	EncryptedDataLenRange      Code = 0x041
	AEADDecryptFailed          Code = 0x042
	FunctionCanceled           Code = 0x050
	FunctionNotSupported       Code = 0x054
	KeyHandleInvalid           Code = 0x060
	KeySizeRange               Code = 0x062
	KeyTypeInconsistent        Code = 0x063
	KeyFunctionNotPermitted    Code = 0x068
	KeyNotWrappable            Code = 0x069
	KeyUnextractable           Code = 0x06A
	MechanismInvalid           Code = 0x070
	MechanismParamInvalid      Code = 0x071
	ObjectHandleInvalid        Code = 0x082
	OperationActive            Code = 0x090
	OperationNotInitialized    Code = 0x091
	PinIncorrect               Code = 0x0A0
	PinInvalid                 Code = 0x0A1
	PinLenRange                Code = 0x0A2
	PinExpired                 Code = 0x0A3
	PinLocked                  Code = 0x0A4
	SessionClosed              Code = 0x0B0
	SessionCount               Code = 0x0B1
	SessionHandleInvalid       Code = 0x0B3
	SessionReadOnly            Code = 0x0B5
	SignatureInvalid           Code = 0x0C0
	SignatureLenRange          Code = 0x0C1
	TemplateIncomplete         Code = 0x0D0
	TemplateInconsistent       Code = 0x0D1
	TokenNotPresent            Code = 0x0E0
	TokenNotRecognized         Code = 0x0E1
	TokenWriteProtected        Code = 0x0E2
	UnwrappingHandleInvalid    Code = 0x0F0
	UnwrappingKeySizeRange     Code = 0x0F1
	UnwrappingTypeInconsistent Code = 0x0F2
	UserAlreadyLoggedIn        Code = 0x100
	UserNotLoggedIn            Code = 0x101
	UserPinNotInitialized      Code = 0x102
	UserTypeInvalid            Code = 0x103
	UserAnotherLoggedIn        Code = 0x104
	UserTooManyTypes           Code = 0x105
	WrappedKeyInvalid          Code = 0x110
	WrappedKeyLenRange         Code = 0x112
	WrappingHandleInvalid      Code = 0x113
	WrappingKeySizeRange       Code = 0x114
	WrappingTypeInconsistent   Code = 0x115
	RandomNoRNG                Code = 0x121
	DomainParamsInvalid        Code = 0x130
	CurveNotSupported          Code = 0x140
	BufferTooSmall             Code = 0x150
	CryptokiNotInitialized     Code = 0x190
	CryptokiInitialized        Code = 0x191
	MutexBad                   Code = 0x1A0
	MutexNotLocked             Code = 0x1A1
	FIPSSelfTestFailed         Code = 0x1B6
	LibraryLoadFailed          Code = 0x1B7
	PinTooWeak                 Code = 0x1B8
	PublicKeyInvalid           Code = 0x1B9
	FunctionRejected           Code = 0x200
	TokenResourceExceeded      Code = 0x201
	OperationCancelFailed      Code = 0x202
	KeyExhausted               Code = 0x203
	VendorDefined              Code = 0x80000000
)

var codeNames = map[Code]string{
	OK: "OK", HostMemory: "HOST_MEMORY", SlotIDInvalid: "SLOT_ID_INVALID", GeneralError: "GENERAL_ERROR",
	FunctionFailed: "FUNCTION_FAILED", ArgumentsBad: "ARGUMENTS_BAD", NeedToCreateThreads: "NEED_TO_CREATE_THREADS", CantLock: "CANT_LOCK",
	AttributeReadOnly: "ATTRIBUTE_READ_ONLY", AttributeSensitive: "ATTRIBUTE_SENSITIVE",
	AttributeTypeInvalid: "ATTRIBUTE_TYPE_INVALID", AttributeValueInvalid: "ATTRIBUTE_VALUE_INVALID",
	ActionProhibited: "ACTION_PROHIBITED", DataInvalid: "DATA_INVALID", DataLenRange: "DATA_LEN_RANGE",
	DeviceError: "DEVICE_ERROR", DeviceMemory: "DEVICE_MEMORY", DeviceRemoved: "DEVICE_REMOVED",
	EncryptedDataInvalid: "ENCRYPTED_DATA_INVALID", EncryptedDataLenRange: "ENCRYPTED_DATA_LEN_RANGE",
	AEADDecryptFailed: "AEAD_DECRYPT_FAILED", FunctionCanceled: "FUNCTION_CANCELED", FunctionNotSupported: "FUNCTION_NOT_SUPPORTED",
	KeyHandleInvalid: "KEY_HANDLE_INVALID", KeySizeRange: "KEY_SIZE_RANGE", KeyTypeInconsistent: "KEY_TYPE_INCONSISTENT",
	KeyFunctionNotPermitted: "KEY_FUNCTION_NOT_PERMITTED", KeyNotWrappable: "KEY_NOT_WRAPPABLE", KeyUnextractable: "KEY_UNEXTRACTABLE",
	MechanismInvalid: "MECHANISM_INVALID", MechanismParamInvalid: "MECHANISM_PARAM_INVALID", ObjectHandleInvalid: "OBJECT_HANDLE_INVALID",
	OperationActive: "OPERATION_ACTIVE", OperationNotInitialized: "OPERATION_NOT_INITIALIZED", PinIncorrect: "PIN_INCORRECT",
	PinInvalid: "PIN_INVALID", PinLenRange: "PIN_LEN_RANGE", PinExpired: "PIN_EXPIRED", PinLocked: "PIN_LOCKED",
	SessionClosed: "SESSION_CLOSED", SessionCount: "SESSION_COUNT", SessionHandleInvalid: "SESSION_HANDLE_INVALID",
	SessionReadOnly: "SESSION_READ_ONLY", SignatureInvalid: "SIGNATURE_INVALID", SignatureLenRange: "SIGNATURE_LEN_RANGE",
	TemplateIncomplete: "TEMPLATE_INCOMPLETE", TemplateInconsistent: "TEMPLATE_INCONSISTENT", TokenNotPresent: "TOKEN_NOT_PRESENT",
	TokenNotRecognized: "TOKEN_NOT_RECOGNIZED", TokenWriteProtected: "TOKEN_WRITE_PROTECTED",
	UnwrappingHandleInvalid: "UNWRAPPING_KEY_HANDLE_INVALID", UnwrappingKeySizeRange: "UNWRAPPING_KEY_SIZE_RANGE",
	UnwrappingTypeInconsistent: "UNWRAPPING_KEY_TYPE_INCONSISTENT", UserAlreadyLoggedIn: "USER_ALREADY_LOGGED_IN",
	UserNotLoggedIn: "USER_NOT_LOGGED_IN", UserPinNotInitialized: "USER_PIN_NOT_INITIALIZED", UserTypeInvalid: "USER_TYPE_INVALID",
	UserAnotherLoggedIn: "USER_ANOTHER_ALREADY_LOGGED_IN", UserTooManyTypes: "USER_TOO_MANY_TYPES",
	WrappedKeyInvalid: "WRAPPED_KEY_INVALID", WrappedKeyLenRange: "WRAPPED_KEY_LEN_RANGE", WrappingHandleInvalid: "WRAPPING_KEY_HANDLE_INVALID",
	WrappingKeySizeRange: "WRAPPING_KEY_SIZE_RANGE", WrappingTypeInconsistent: "WRAPPING_KEY_TYPE_INCONSISTENT",
	RandomNoRNG: "RANDOM_NO_RNG", DomainParamsInvalid: "DOMAIN_PARAMS_INVALID", CurveNotSupported: "CURVE_NOT_SUPPORTED",
	BufferTooSmall: "BUFFER_TOO_SMALL", CryptokiNotInitialized: "CRYPTOKI_NOT_INITIALIZED",
	CryptokiInitialized: "CRYPTOKI_ALREADY_INITIALIZED", MutexBad: "MUTEX_BAD", MutexNotLocked: "MUTEX_NOT_LOCKED",
	FIPSSelfTestFailed: "FIPS_SELF_TEST_FAILED", LibraryLoadFailed: "LIBRARY_LOAD_FAILED", PinTooWeak: "PIN_TOO_WEAK",
	PublicKeyInvalid: "PUBLIC_KEY_INVALID", FunctionRejected: "FUNCTION_REJECTED", TokenResourceExceeded: "TOKEN_RESOURCE_EXCEEDED",
	OperationCancelFailed: "OPERATION_CANCEL_FAILED", KeyExhausted: "KEY_EXHAUSTED",
}

// String returns the standard's name with the number, so that either can be looked up.
func (c Code) String() string {
	if n, ok := codeNames[c]; ok {
		return fmt.Sprintf("CKR_%s (0x%X)", n, uint64(c))
	}
	if c >= VendorDefined {
		return fmt.Sprintf("a vendor-defined code (0x%X)", uint64(c))
	}
	return fmt.Sprintf("an unknown code (0x%X)", uint64(c))
}

var functionNames = [...]string{
	FnOther: "a PKCS#11 call", FnInitialize: "C_Initialize", FnOpenSession: "C_OpenSession", FnLogin: "C_Login",
	FnFind: "C_FindObjects", FnGetAttribute: "C_GetAttributeValue", FnSign: "C_Sign", FnEncrypt: "C_Encrypt",
	FnDecrypt: "C_Decrypt", FnWrap: "C_WrapKey", FnUnwrap: "C_UnwrapKey", FnGenerate: "C_GenerateKey",
	FnCreate: "C_CreateObject", FnDestroy: "C_DestroyObject", FnRandom: "C_GenerateRandom",
}

// String returns the standard's name of the function.
func (f Function) String() string {
	if int(f) < len(functionNames) {
		return functionNames[f]
	}
	return functionNames[FnOther]
}
