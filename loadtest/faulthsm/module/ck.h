/*
 * The PKCS#11 v2.40 types (OASIS) that a module and its callers exchange, and the list of its
 * functions in the order of CK_FUNCTION_LIST. Only layout matters; nothing here is packed, as on every
 * Unix. Own declarations, so that building needs no package beside the C compiler.
 */
#ifndef FAULTHSM_CK_H
#define FAULTHSM_CK_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned char CK_BYTE, CK_BBOOL, CK_UTF8CHAR;
typedef unsigned long CK_ULONG, CK_RV, CK_FLAGS, CK_SLOT_ID, CK_SESSION_HANDLE, CK_OBJECT_HANDLE;

typedef struct { CK_BYTE major, minor; } CK_VERSION;
typedef struct { CK_ULONG type; void *value; CK_ULONG len; } CK_ATTRIBUTE;
typedef struct { CK_ULONG mechanism; void *parameter; CK_ULONG len; } CK_MECHANISM;

typedef struct {
	CK_UTF8CHAR description[64], manufacturer[32];
	CK_FLAGS flags;
	CK_VERSION hardware, firmware;
} CK_SLOT_INFO;

typedef struct {
	CK_UTF8CHAR label[32], manufacturer[32], model[16], serial[16];
	CK_FLAGS flags;
	CK_ULONG max_sessions, sessions, max_rw_sessions, rw_sessions, max_pin, min_pin;
	CK_ULONG total_public, free_public, total_private, free_private;
	CK_VERSION hardware, firmware;
	CK_UTF8CHAR time[16];
} CK_TOKEN_INFO;

typedef struct { CK_SLOT_ID slot; CK_ULONG state; CK_FLAGS flags; CK_ULONG device_error; } CK_SESSION_INFO;

typedef struct CK_FUNCTION_LIST CK_FUNCTION_LIST;

#define CK_INIT (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE)
#define CK_IO (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *)
#define CK_IN (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG)
#define CK_OUT (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG *)
#define CK_TEMPLATE (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG)

/* X(name, parameters) for each function, in the order of the function list. */
#define CK_FUNCTIONS(X) \
	X(C_Initialize, (void *)) \
	X(C_Finalize, (void *)) \
	X(C_GetInfo, (void *)) \
	X(C_GetFunctionList, (CK_FUNCTION_LIST **)) \
	X(C_GetSlotList, (CK_BBOOL, CK_SLOT_ID *, CK_ULONG *)) \
	X(C_GetSlotInfo, (CK_SLOT_ID, CK_SLOT_INFO *)) \
	X(C_GetTokenInfo, (CK_SLOT_ID, CK_TOKEN_INFO *)) \
	X(C_GetMechanismList, (CK_SLOT_ID, CK_ULONG *, CK_ULONG *)) \
	X(C_GetMechanismInfo, (CK_SLOT_ID, CK_ULONG, void *)) \
	X(C_InitToken, (CK_SLOT_ID, CK_BYTE *, CK_ULONG, CK_UTF8CHAR *)) \
	X(C_InitPIN, CK_IN) \
	X(C_SetPIN, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG)) \
	X(C_OpenSession, (CK_SLOT_ID, CK_FLAGS, void *, void *, CK_SESSION_HANDLE *)) \
	X(C_CloseSession, (CK_SESSION_HANDLE)) \
	X(C_CloseAllSessions, (CK_SLOT_ID)) \
	X(C_GetSessionInfo, (CK_SESSION_HANDLE, CK_SESSION_INFO *)) \
	X(C_GetOperationState, CK_OUT) \
	X(C_SetOperationState, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE)) \
	X(C_Login, (CK_SESSION_HANDLE, CK_ULONG, CK_BYTE *, CK_ULONG)) \
	X(C_Logout, (CK_SESSION_HANDLE)) \
	X(C_CreateObject, (CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	X(C_CopyObject, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	X(C_DestroyObject, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE)) \
	X(C_GetObjectSize, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ULONG *)) \
	X(C_GetAttributeValue, CK_TEMPLATE) \
	X(C_SetAttributeValue, CK_TEMPLATE) \
	X(C_FindObjectsInit, (CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG)) \
	X(C_FindObjects, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE *, CK_ULONG, CK_ULONG *)) \
	X(C_FindObjectsFinal, (CK_SESSION_HANDLE)) \
	X(C_EncryptInit, CK_INIT) \
	X(C_Encrypt, CK_IO) \
	X(C_EncryptUpdate, CK_IO) \
	X(C_EncryptFinal, CK_OUT) \
	X(C_DecryptInit, CK_INIT) \
	X(C_Decrypt, CK_IO) \
	X(C_DecryptUpdate, CK_IO) \
	X(C_DecryptFinal, CK_OUT) \
	X(C_DigestInit, (CK_SESSION_HANDLE, CK_MECHANISM *)) \
	X(C_Digest, CK_IO) \
	X(C_DigestUpdate, CK_IN) \
	X(C_DigestKey, (CK_SESSION_HANDLE, CK_OBJECT_HANDLE)) \
	X(C_DigestFinal, CK_OUT) \
	X(C_SignInit, CK_INIT) \
	X(C_Sign, CK_IO) \
	X(C_SignUpdate, CK_IN) \
	X(C_SignFinal, CK_OUT) \
	X(C_SignRecoverInit, CK_INIT) \
	X(C_SignRecover, CK_IO) \
	X(C_VerifyInit, CK_INIT) \
	X(C_Verify, (CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG)) \
	X(C_VerifyUpdate, CK_IN) \
	X(C_VerifyFinal, CK_IN) \
	X(C_VerifyRecoverInit, CK_INIT) \
	X(C_VerifyRecover, CK_IO) \
	X(C_DigestEncryptUpdate, CK_IO) \
	X(C_DecryptDigestUpdate, CK_IO) \
	X(C_SignEncryptUpdate, CK_IO) \
	X(C_DecryptVerifyUpdate, CK_IO) \
	X(C_GenerateKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	X(C_GenerateKeyPair, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_ATTRIBUTE *, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG, \
	                      CK_OBJECT_HANDLE *, CK_OBJECT_HANDLE *)) \
	X(C_WrapKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG *)) \
	X(C_UnwrapKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_BYTE *, CK_ULONG, CK_ATTRIBUTE *, CK_ULONG, \
	                CK_OBJECT_HANDLE *)) \
	X(C_DeriveKey, (CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *)) \
	X(C_SeedRandom, CK_IN) \
	X(C_GenerateRandom, CK_IN) \
	X(C_GetFunctionStatus, (CK_SESSION_HANDLE)) \
	X(C_CancelFunction, (CK_SESSION_HANDLE)) \
	X(C_WaitForSlotEvent, (CK_FLAGS, CK_SLOT_ID *, void *))

struct CK_FUNCTION_LIST {
	CK_VERSION version;
#define X(name, parameters) CK_RV (*name) parameters;
	CK_FUNCTIONS(X)
#undef X
};

enum fn {
#define X(name, parameters) FN_##name,
	CK_FUNCTIONS(X)
#undef X
	FN_COUNT
};

/* An object's handle also holds which invalidation it belongs to, in bits a module does not use. */
_Static_assert(sizeof(CK_ULONG) == 8, "faulthsm needs 64-bit CK_ULONG");
_Static_assert(FN_COUNT == 68, "PKCS#11 v2.40 has 68 functions");
_Static_assert(sizeof(CK_FUNCTION_LIST) == 8 + 68 * 8, "layout of CK_FUNCTION_LIST");
_Static_assert(sizeof(CK_TOKEN_INFO) == 208 && sizeof(CK_SLOT_INFO) == 112, "layout of the info structures");

#define CKR_OK 0x0UL
#define CKR_GENERAL_ERROR 0x5UL
#define CKR_DEVICE_MEMORY 0x31UL
#define CKR_DEVICE_REMOVED 0x32UL
#define CKR_FUNCTION_NOT_SUPPORTED 0x54UL
#define CKR_KEY_HANDLE_INVALID 0x60UL
#define CKR_OBJECT_HANDLE_INVALID 0x82UL
#define CKR_PIN_INCORRECT 0xA0UL
#define CKR_PIN_LOCKED 0xA4UL
#define CKR_SESSION_COUNT 0xB1UL
#define CKR_TOKEN_NOT_PRESENT 0xE0UL
#define CKR_UNWRAPPING_KEY_HANDLE_INVALID 0xF0UL
#define CKR_WRAPPING_KEY_HANDLE_INVALID 0x113UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKR_CRYPTOKI_ALREADY_INITIALIZED 0x191UL

#define CKF_TOKEN_PRESENT 0x1UL
#define CKF_CLOCK_ON_TOKEN 0x40UL
#define CKF_USER_PIN_COUNT_LOW 0x10000UL
#define CKF_USER_PIN_FINAL_TRY 0x20000UL
#define CKF_USER_PIN_LOCKED 0x40000UL

#define CKU_SO 0UL

#define CKA_TOKEN 0x1UL
#define CKA_PRIVATE 0x2UL
#define CKA_MODULUS_BITS 0x121UL
#define CKA_EC_PARAMS 0x180UL

#endif
