//go:build linux && cgo

package reaction

import (
	"testing"

	"keyway/hsm"
)

// TestTheReactionToEachCode: the rows of docs/design/pool.md for codes that are answered to an operation.
func TestTheReactionToEachCode(t *testing.T) {
	for _, r := range []row{
		// Sessions that the token forgot.
		{hsm.SessionHandleInvalid, "C_SignInit", "mac", "", noSession},
		{hsm.SessionHandleInvalid, "C_UnwrapKey", "mac", "", noSession},
		{hsm.SessionClosed, "C_Sign", "sign", "", noSession},
		// The code alone, of a token whose sessions are in the user state.
		{hsm.UserNotLoggedIn, "C_Sign", "mac", "", noSession},
		{hsm.UserAlreadyLoggedIn, "C_Sign", "mac", "", newHandle},
		// Handles.
		{hsm.KeyHandleInvalid, "C_SignInit", "mac", "", newHandle},
		{hsm.ObjectHandleInvalid, "C_DecryptInit", "decrypt", "", newHandle},
		{hsm.UnwrappingHandleInvalid, "C_DecryptInit", "decrypt", "", newHandle},
		{hsm.WrappingHandleInvalid, "C_DecryptInit", "decrypt", "", newHandle},
		{hsm.FunctionCanceled, "C_Sign", "mac", "", newHandle},
		{hsm.OperationCancelFailed, "C_Sign", "mac", "", newHandle},
		// A pending operation.
		{hsm.OperationActive, "C_SignInit", "sign", "", newSession},
		{hsm.OperationNotInitialized, "C_Sign", "sign", "", newSession},

		// Capacity.
		{hsm.HostMemory, "C_Sign", "mac", "", askLess},
		{hsm.DeviceMemory, "C_UnwrapKey", "mac", "", askLess},
		{hsm.DeviceMemory, "C_Sign", "mac", "", askLess},
		{hsm.SessionCount, "C_Sign", "mac", "", askLess},
		{hsm.TokenResourceExceeded, "C_Sign", "mac", "", askLess},
		{hsm.FunctionFailed, "C_Sign", "mac", hsm.VendorCloudHSM, askLess},
		{hsm.FunctionFailed, "C_Decrypt", "decrypt", hsm.VendorCloudHSM, askLess},

		// The device and its library.
		{hsm.DeviceError, "C_Sign", "mac", "", deadSession},
		{hsm.DeviceError, "C_Decrypt", "decrypt", "", deadSession},
		{hsm.DeviceRemoved, "C_Sign", "mac", "", deadToken},
		{hsm.TokenNotPresent, "C_SignInit", "mac", "", deadToken},
		{hsm.TokenNotRecognized, "C_Sign", "mac", "", deadToken},
		{hsm.SlotIDInvalid, "C_Sign", "mac", "", deadToken},
		{hsm.CryptokiNotInitialized, "C_Sign", "mac", "", deadToken},
		{hsm.CryptokiNotInitialized, "C_UnwrapKey", "mac", "", deadToken},
		{hsm.CryptokiInitialized, "C_Sign", "mac", "", device},
		{hsm.CantLock, "C_Sign", "mac", "", device},
		{hsm.MutexBad, "C_Sign", "mac", "", device},
		{hsm.MutexNotLocked, "C_Sign", "mac", "", device},
		{hsm.NeedToCreateThreads, "C_Sign", "mac", "", device},
		{hsm.LibraryLoadFailed, "C_Sign", "mac", "", device},
		{hsm.FIPSSelfTestFailed, "C_Sign", "mac", "", device},
		{hsm.RandomNoRNG, "C_GenerateRandom", "random", "", device},
		{hsm.TokenWriteProtected, "C_Sign", "mac", "", device},
		{hsm.SessionReadOnly, "C_Sign", "mac", "", device},
		{hsm.FunctionFailed, "C_GenerateRandom", "random", hsm.VendorYubiHSM, device},
		{hsm.GeneralError, "C_GenerateRandom", "random", "", device},

		// What a token cannot tell; the canary passes.
		{hsm.GeneralError, "C_Sign", "mac", "", secondOpinion},
		{hsm.GeneralError, "C_Decrypt", "decrypt", "", secondOpinion},
		{hsm.FunctionFailed, "C_Decrypt", "decrypt", hsm.VendorNShield, secondOpinion},
		{hsm.FunctionFailed, "C_Sign", "mac", hsm.VendorYubiHSM, secondOpinion},
		{hsm.ArgumentsBad, "C_Sign", "mac", "", secondOpinion},
		{hsm.VendorDefined | 0x1A, "C_Sign", "mac", hsm.VendorLuna, secondOpinion},
		{0x666, "C_Sign", "mac", "", secondOpinion},

		// The caller's data.
		{hsm.DataInvalid, "C_Sign", "mac", "", blameCaller},
		{hsm.DataLenRange, "C_Sign", "mac", "", blameCaller},
		{hsm.EncryptedDataInvalid, "C_Decrypt", "decrypt", "", blameCaller},
		{hsm.EncryptedDataLenRange, "C_Decrypt", "decrypt", "", blameCaller},
		{hsm.AEADDecryptFailed, "C_Decrypt", "decrypt", "", blameCaller},
		{hsm.SignatureInvalid, "C_Sign", "mac", "", blameCaller},
		{hsm.SignatureLenRange, "C_Sign", "mac", "", blameCaller},
		{hsm.WrappedKeyInvalid, "C_Decrypt", "decrypt", "", blameCaller},
		{hsm.WrappedKeyLenRange, "C_Decrypt", "decrypt", "", blameCaller},
		{hsm.PublicKeyInvalid, "C_Sign", "mac", "", blameCaller},
		{hsm.KeyNotWrappable, "C_Sign", "mac", "", blameCaller},
		{hsm.KeyUnextractable, "C_Sign", "mac", "", blameCaller},
		{hsm.AttributeSensitive, "C_Sign", "mac", "", blameCaller},
		{hsm.FunctionRejected, "C_Sign", "mac", "", blameCaller},
		// The same of our own blob is no caller's doing.
		{hsm.WrappedKeyInvalid, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.WrappedKeyLenRange, "C_UnwrapKey", "mac", "", nextMember},

		// What this token does not take.
		{hsm.KeyFunctionNotPermitted, "C_SignInit", "mac", "", nextMember},
		{hsm.KeyTypeInconsistent, "C_SignInit", "mac", "", nextMember},
		{hsm.KeySizeRange, "C_SignInit", "mac", "", nextMember},
		{hsm.KeyExhausted, "C_SignInit", "mac", "", nextMember},
		{hsm.ActionProhibited, "C_SignInit", "mac", "", nextMember},
		{hsm.MechanismInvalid, "C_SignInit", "mac", "", nextMember},
		{hsm.MechanismParamInvalid, "C_DecryptInit", "decrypt", "", nextMember},
		{hsm.FunctionNotSupported, "C_SignInit", "mac", "", nextMember},
		{hsm.CurveNotSupported, "C_UnwrapKey", "sign", "", nextMember},
		{hsm.DomainParamsInvalid, "C_UnwrapKey", "sign", "", nextMember},
		{hsm.TemplateIncomplete, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.TemplateInconsistent, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.AttributeTypeInvalid, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.AttributeValueInvalid, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.AttributeReadOnly, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.UnwrappingKeySizeRange, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.UnwrappingTypeInconsistent, "C_UnwrapKey", "mac", "", nextMember},
		{hsm.WrappingKeySizeRange, "C_SignInit", "mac", "", nextMember},
		{hsm.WrappingTypeInconsistent, "C_SignInit", "mac", "", nextMember},
	} {
		r.run(t, setup{})
	}
}
