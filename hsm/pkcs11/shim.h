/*
 * The part of PKCS#11 that the data path needs, and functions that do a whole
 * operation in one crossing from Go: parameters are built on the C stack, and
 * results go straight into the caller's memory, so there are no copies.
 *
 * The declarations follow OASIS PKCS#11 v2.40 (names shortened); only the
 * layout matters, which later versions keep.
 */
#ifndef KEYWAY_SHIM_H
#define KEYWAY_SHIM_H

#include <stddef.h>

typedef unsigned long kw_ulong; /* CK_ULONG, CK_RV, handles and numbers */
typedef unsigned char kw_byte;

typedef struct {
	kw_ulong type;
	void *value;
	kw_ulong len;
} kw_attribute; /* CK_ATTRIBUTE */

typedef struct {
	kw_ulong type;
	void *parameter;
	kw_ulong len;
} kw_mechanism; /* CK_MECHANISM */

typedef struct {
	kw_byte *iv;
	kw_ulong iv_len;
	kw_ulong iv_bits;
	kw_byte *aad;
	kw_ulong aad_len;
	kw_ulong tag_bits;
} kw_gcm_params; /* CK_GCM_PARAMS */

typedef struct {
	kw_ulong hash;
	kw_ulong mgf;
	kw_ulong salt_len;
} kw_pss_params; /* CK_RSA_PKCS_PSS_PARAMS */

typedef struct {
	kw_ulong hash;
	kw_ulong mgf;
	kw_ulong source;
	void *source_data;
	kw_ulong source_len;
} kw_oaep_params; /* CK_RSA_PKCS_OAEP_PARAMS */

typedef kw_ulong (*kw_init_fn)(kw_ulong session, kw_mechanism *mechanism, kw_ulong key);
typedef kw_ulong (*kw_op_fn)(kw_ulong session, kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong *out_len);
typedef kw_ulong (*kw_unused_fn)(void);

/* CK_FUNCTION_LIST */
typedef struct {
	kw_byte version[2];
	kw_unused_fn library[9]; /* C_Initialize to C_GetMechanismInfo */
	kw_ulong (*C_InitToken)(kw_ulong slot, kw_byte *pin, kw_ulong pin_len, kw_byte *label);
	kw_ulong (*C_InitPIN)(kw_ulong session, kw_byte *pin, kw_ulong pin_len);
	kw_unused_fn sessions[7]; /* C_SetPIN to C_SetOperationState */
	kw_ulong (*C_Login)(kw_ulong session, kw_ulong user, kw_byte *pin, kw_ulong pin_len);
	kw_unused_fn C_Logout;
	kw_ulong (*C_CreateObject)(kw_ulong session, kw_attribute *a, kw_ulong n, kw_ulong *object);
	kw_unused_fn C_CopyObject;
	kw_ulong (*C_DestroyObject)(kw_ulong session, kw_ulong object);
	kw_unused_fn C_GetObjectSize;
	kw_ulong (*C_GetAttributeValue)(kw_ulong session, kw_ulong object, kw_attribute *a, kw_ulong n);
	kw_ulong (*C_SetAttributeValue)(kw_ulong session, kw_ulong object, kw_attribute *a, kw_ulong n);
	kw_ulong (*C_FindObjectsInit)(kw_ulong session, kw_attribute *a, kw_ulong n);
	kw_ulong (*C_FindObjects)(kw_ulong session, kw_ulong *objects, kw_ulong max, kw_ulong *n);
	kw_ulong (*C_FindObjectsFinal)(kw_ulong session);
	kw_init_fn C_EncryptInit;
	kw_op_fn C_Encrypt;
	kw_unused_fn C_EncryptUpdate, C_EncryptFinal;
	kw_init_fn C_DecryptInit;
	kw_op_fn C_Decrypt;
	kw_unused_fn C_DecryptUpdate, C_DecryptFinal;
	kw_unused_fn digest[5]; /* C_DigestInit to C_DigestFinal */
	kw_init_fn C_SignInit;
	kw_op_fn C_Sign;
	kw_unused_fn more[14]; /* C_SignUpdate to C_DecryptVerifyUpdate */
	kw_ulong (*C_GenerateKey)(kw_ulong session, kw_mechanism *m, kw_attribute *a, kw_ulong n, kw_ulong *key);
	kw_ulong (*C_GenerateKeyPair)(kw_ulong session, kw_mechanism *m, kw_attribute *pub, kw_ulong npub,
	                              kw_attribute *prv, kw_ulong nprv, kw_ulong *pub_key, kw_ulong *prv_key);
	kw_ulong (*C_WrapKey)(kw_ulong session, kw_mechanism *m, kw_ulong kek, kw_ulong key, kw_byte *out, kw_ulong *out_len);
	kw_ulong (*C_UnwrapKey)(kw_ulong session, kw_mechanism *m, kw_ulong kek, kw_byte *in, kw_ulong in_len,
	                        kw_attribute *a, kw_ulong n, kw_ulong *key);
	kw_unused_fn C_DeriveKey, C_SeedRandom;
	kw_ulong (*C_GenerateRandom)(kw_ulong session, kw_byte *out, kw_ulong len);
	kw_unused_fn legacy[3]; /* C_GetFunctionStatus to C_WaitForSlotEvent */
} kw_functions;

/* What came of a call. Which field means something is said at each function. */
typedef struct {
	kw_ulong rv;
	kw_ulong len;    /* bytes written, or objects found */
	kw_ulong handle; /* the object made or found */
	kw_ulong other;  /* the public object of a pair */
	int step;        /* which of several calls returned rv, from 0 */
} kw_result;

enum { KW_SIGN, KW_ENCRYPT, KW_DECRYPT };

/* One operation. Its memory belongs to the caller and must stay while the call runs. */
typedef struct {
	kw_ulong session, key, mechanism;
	kw_ulong hash; /* CKM_SHA…: parameters of PSS and OAEP are made from it */
	kw_ulong mgf;
	kw_ulong salt_len;
	int kind; /* KW_SIGN … */
	int resume; /* the Init has been done: only call again, with a larger buffer */
} kw_operation;

/* kw_load returns the function list of a module, or NULL and why in err. The module is never unloaded. */
kw_functions *kw_load(const char *path, char *err, size_t err_len);

/* kw_run does Init and the operation; len is what was written to out. iv and aad are for AES-GCM only. */
kw_result kw_run(kw_functions *f, kw_operation op, kw_byte *iv, kw_byte *aad, kw_ulong aad_len,
                 kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap);

/* Clear material to its wrapping and back, by way of a session object that is destroyed at once. */
kw_result kw_wrap_bytes(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism,
                        kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap);
kw_result kw_unwrap_bytes(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism,
                          kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap);

/* Administration. A template is n packed attributes: type and length as kw_ulong, then the value, padded to 8. */
kw_result kw_create(kw_functions *f, kw_ulong session, kw_byte *t, kw_ulong n);
kw_result kw_generate(kw_functions *f, kw_ulong session, kw_ulong mechanism, kw_byte *t, kw_ulong n);
kw_result kw_generate_pair(kw_functions *f, kw_ulong session, kw_ulong mechanism,
                           kw_byte *pub, kw_ulong npub, kw_byte *prv, kw_ulong nprv);
/* hash and mgf are the parameters of RSA OAEP, unused by other mechanisms. */
kw_result kw_wrap(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism, kw_ulong hash, kw_ulong mgf,
                  kw_ulong key, kw_byte *out, kw_ulong out_cap);
kw_result kw_unwrap(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism, kw_ulong hash, kw_ulong mgf,
                    kw_byte *in, kw_ulong in_len, kw_byte *t, kw_ulong n);
kw_result kw_find(kw_functions *f, kw_ulong session, kw_byte *t, kw_ulong n);
kw_result kw_attribute_value(kw_functions *f, kw_ulong session, kw_ulong object, kw_ulong type,
                             kw_byte *out, kw_ulong out_cap);
kw_result kw_set_attributes(kw_functions *f, kw_ulong session, kw_ulong object, kw_byte *t, kw_ulong n);
kw_result kw_destroy(kw_functions *f, kw_ulong session, kw_ulong object);
kw_result kw_random(kw_functions *f, kw_ulong session, kw_byte *out, kw_ulong len);
kw_result kw_login(kw_functions *f, kw_ulong session, kw_ulong user, kw_byte *pin, kw_ulong len);
kw_result kw_init_token(kw_functions *f, kw_ulong slot, kw_byte *pin, kw_ulong len, kw_byte *label);
kw_result kw_init_pin(kw_functions *f, kw_ulong session, kw_byte *pin, kw_ulong len);

#endif
