//go:build cgo

#include "shim.h"

#include <dlfcn.h>
#include <string.h>
#include <stdio.h>

#define CKR_OK 0UL
#define CKR_ARGUMENTS_BAD 7UL
#define CKR_DEVICE_ERROR 0x30UL

#define CKA_CLASS 0x0UL
#define CKA_TOKEN 0x1UL
#define CKA_PRIVATE 0x2UL
#define CKA_VALUE 0x11UL
#define CKA_KEY_TYPE 0x100UL
#define CKA_SENSITIVE 0x103UL
#define CKA_EXTRACTABLE 0x162UL
#define CKO_SECRET_KEY 4UL
#define CKK_GENERIC_SECRET 0x10UL

#define CKM_RSA_PKCS_OAEP 0x9UL
#define CKM_RSA_PKCS_PSS 0xDUL
#define CKM_AES_GCM 0x1087UL
#define CKZ_DATA_SPECIFIED 1UL

#define MAX_ATTRIBUTES 40

/* memset through a volatile pointer, which the compiler may not drop; explicit_bzero is not everywhere. */
static void *(*const volatile wipe_with)(void *, int, size_t) = memset;
static void wipe(void *p, size_t n) { wipe_with(p, 0, n); }

kw_functions *kw_load(const char *path, char *err, size_t err_len)
{
	kw_ulong (*list)(kw_functions **);
	kw_functions *f = NULL;
	void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (h == NULL) {
		const char *e = dlerror();
		snprintf(err, err_len, "%s", e ? e : "cannot be loaded");
		return NULL;
	}
	*(void **)&list = dlsym(h, "C_GetFunctionList");
	if (list == NULL) {
		snprintf(err, err_len, "it has no C_GetFunctionList and so is no PKCS#11 module");
		return NULL;
	}
	kw_ulong rv = list(&f);
	if (rv != CKR_OK || f == NULL) {
		snprintf(err, err_len, "C_GetFunctionList returned 0x%lX", rv);
		return NULL;
	}
	return f;
}

kw_result kw_run(kw_functions *f, kw_operation op, kw_byte *iv, kw_byte *aad, kw_ulong aad_len,
                 kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap)
{
	kw_result r = {0};
	union {
		kw_gcm_params gcm;
		kw_pss_params pss;
		kw_oaep_params oaep;
	} p;
	kw_mechanism m = {op.mechanism, NULL, 0};
	kw_init_fn init = op.kind == KW_SIGN ? f->C_SignInit : op.kind == KW_ENCRYPT ? f->C_EncryptInit : f->C_DecryptInit;
	kw_op_fn run = op.kind == KW_SIGN ? f->C_Sign : op.kind == KW_ENCRYPT ? f->C_Encrypt : f->C_Decrypt;

	if (!op.resume) {
		memset(&p, 0, sizeof p);
		switch (op.mechanism) {
		case CKM_AES_GCM:
			/* Some tokens write the IV they chose to where iv points. */
			p.gcm = (kw_gcm_params){iv, 12, 96, aad_len ? aad : NULL, aad_len, 128};
			m.parameter = &p.gcm, m.len = sizeof p.gcm;
			break;
		case CKM_RSA_PKCS_PSS:
			p.pss = (kw_pss_params){op.hash, op.mgf, op.salt_len};
			m.parameter = &p.pss, m.len = sizeof p.pss;
			break;
		case CKM_RSA_PKCS_OAEP:
			p.oaep = (kw_oaep_params){op.hash, op.mgf, CKZ_DATA_SPECIFIED, NULL, 0};
			m.parameter = &p.oaep, m.len = sizeof p.oaep;
			break;
		}
		r.rv = init(op.session, &m, op.key);
		if (r.rv != CKR_OK) {
			wipe(&p, sizeof p);
			return r;
		}
	}
	r.step = 1;
	r.len = out_cap;
	r.rv = run(op.session, in, in_len, out, &r.len);
	if (!op.resume)
		wipe(&p, sizeof p);
	return r;
}

static kw_byte yes = 1, no = 0;
static kw_ulong secret_class = CKO_SECRET_KEY, generic_key = CKK_GENERIC_SECRET;

#define CLEAR_SECRET \
	{CKA_CLASS, &secret_class, sizeof secret_class}, {CKA_KEY_TYPE, &generic_key, sizeof generic_key}, \
	{CKA_TOKEN, &no, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_SENSITIVE, &no, 1}, {CKA_EXTRACTABLE, &yes, 1}

kw_result kw_wrap_bytes(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism,
                        kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap)
{
	kw_result r = {0};
	kw_ulong object = 0;
	kw_mechanism m = {mechanism, NULL, 0};
	kw_attribute a[] = {CLEAR_SECRET, {CKA_VALUE, in, in_len}};

	r.rv = f->C_CreateObject(session, a, sizeof a / sizeof *a, &object);
	if (r.rv != CKR_OK)
		return r;
	r.step = 1;
	r.len = out_cap;
	r.rv = f->C_WrapKey(session, &m, kek, object, out, &r.len);
	kw_ulong rv = f->C_DestroyObject(session, object);
	if (r.rv == CKR_OK && rv != CKR_OK)
		r.rv = rv, r.step = 2;
	return r;
}

kw_result kw_unwrap_bytes(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism,
                          kw_byte *in, kw_ulong in_len, kw_byte *out, kw_ulong out_cap)
{
	kw_result r = {0};
	kw_ulong object = 0;
	kw_mechanism m = {mechanism, NULL, 0};
	kw_attribute a[] = {CLEAR_SECRET};
	kw_attribute v = {CKA_VALUE, out, out_cap};

	r.rv = f->C_UnwrapKey(session, &m, kek, in, in_len, a, sizeof a / sizeof *a, &object);
	if (r.rv != CKR_OK)
		return r;
	r.step = 1;
	r.rv = f->C_GetAttributeValue(session, object, &v, 1);
	r.len = v.len;
	kw_ulong rv = f->C_DestroyObject(session, object);
	if (r.rv == CKR_OK && rv != CKR_OK)
		r.rv = rv, r.step = 2;
	return r;
}

/* unpack makes attributes that point into the packed template; it returns 0 when there are too many. */
static int unpack(kw_attribute *a, kw_byte *t, kw_ulong n)
{
	if (n > MAX_ATTRIBUTES)
		return 0;
	for (kw_ulong i = 0; i < n; i++) {
		memcpy(&a[i].type, t, sizeof(kw_ulong));
		memcpy(&a[i].len, t + sizeof(kw_ulong), sizeof(kw_ulong));
		t += 2 * sizeof(kw_ulong);
		a[i].value = t;
		t += (a[i].len + 7) / 8 * 8;
	}
	return 1;
}

kw_result kw_create(kw_functions *f, kw_ulong session, kw_byte *t, kw_ulong n)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES];
	if (unpack(a, t, n))
		r.rv = f->C_CreateObject(session, a, n, &r.handle);
	return r;
}

kw_result kw_generate(kw_functions *f, kw_ulong session, kw_ulong mechanism, kw_byte *t, kw_ulong n)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES];
	kw_mechanism m = {mechanism, NULL, 0};
	if (unpack(a, t, n))
		r.rv = f->C_GenerateKey(session, &m, a, n, &r.handle);
	return r;
}

kw_result kw_generate_pair(kw_functions *f, kw_ulong session, kw_ulong mechanism,
                           kw_byte *pub, kw_ulong npub, kw_byte *prv, kw_ulong nprv)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES], b[MAX_ATTRIBUTES];
	kw_mechanism m = {mechanism, NULL, 0};
	if (unpack(a, pub, npub) && unpack(b, prv, nprv))
		r.rv = f->C_GenerateKeyPair(session, &m, a, npub, b, nprv, &r.other, &r.handle);
	return r;
}

/* wrapping is a mechanism of C_WrapKey; of ours only RSA OAEP has parameters. */
static kw_mechanism wrapping(kw_ulong mechanism, kw_oaep_params *oaep)
{
	if (mechanism == CKM_RSA_PKCS_OAEP)
		return (kw_mechanism){mechanism, oaep, sizeof *oaep};
	return (kw_mechanism){mechanism, NULL, 0};
}

kw_result kw_wrap(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism, kw_ulong hash, kw_ulong mgf,
                  kw_ulong key, kw_byte *out, kw_ulong out_cap)
{
	kw_result r = {.len = out_cap};
	kw_oaep_params oaep = {hash, mgf, CKZ_DATA_SPECIFIED, NULL, 0};
	kw_mechanism m = wrapping(mechanism, &oaep);
	r.rv = f->C_WrapKey(session, &m, kek, key, out, &r.len);
	return r;
}

kw_result kw_unwrap(kw_functions *f, kw_ulong session, kw_ulong kek, kw_ulong mechanism, kw_ulong hash, kw_ulong mgf,
                    kw_byte *in, kw_ulong in_len, kw_byte *t, kw_ulong n)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES];
	kw_oaep_params oaep = {hash, mgf, CKZ_DATA_SPECIFIED, NULL, 0};
	kw_mechanism m = wrapping(mechanism, &oaep);
	if (unpack(a, t, n))
		r.rv = f->C_UnwrapKey(session, &m, kek, in, in_len, a, n, &r.handle);
	return r;
}

kw_result kw_find(kw_functions *f, kw_ulong session, kw_byte *t, kw_ulong n)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES];
	/* Two are asked for, so that an ambiguous name shows. */
	kw_ulong found[2] = {0}, last = 1;
	if (!unpack(a, t, n))
		return r;
	r.rv = f->C_FindObjectsInit(session, a, n);
	if (r.rv != CKR_OK)
		return r;
	/* A token may give fewer at a time than it has. */
	while (r.len < 2 && last > 0) {
		last = 0;
		r.rv = f->C_FindObjects(session, found + r.len, 2 - r.len, &last);
		if (r.rv == CKR_OK && last > 2 - r.len)
			r.rv = CKR_DEVICE_ERROR; /* more than was asked for, so nothing it says can be believed */
		if (r.rv != CKR_OK)
			break;
		r.len += last;
	}
	kw_ulong rv = f->C_FindObjectsFinal(session);
	if (r.rv == CKR_OK)
		r.rv = rv;
	r.handle = found[0];
	r.other = found[1];
	return r;
}

kw_result kw_attribute_value(kw_functions *f, kw_ulong session, kw_ulong object, kw_ulong type,
                             kw_byte *out, kw_ulong out_cap)
{
	kw_result r = {0};
	kw_attribute a = {type, out, out_cap};
	r.rv = f->C_GetAttributeValue(session, object, &a, 1);
	r.len = a.len;
	return r;
}

kw_result kw_set_attributes(kw_functions *f, kw_ulong session, kw_ulong object, kw_byte *t, kw_ulong n)
{
	kw_result r = {.rv = CKR_ARGUMENTS_BAD};
	kw_attribute a[MAX_ATTRIBUTES];
	if (unpack(a, t, n))
		r.rv = f->C_SetAttributeValue(session, object, a, n);
	return r;
}

kw_result kw_destroy(kw_functions *f, kw_ulong session, kw_ulong object)
{
	return (kw_result){.rv = f->C_DestroyObject(session, object)};
}

kw_result kw_random(kw_functions *f, kw_ulong session, kw_byte *out, kw_ulong len)
{
	return (kw_result){.rv = f->C_GenerateRandom(session, out, len), .len = len};
}

kw_result kw_login(kw_functions *f, kw_ulong session, kw_ulong user, kw_byte *pin, kw_ulong len)
{
	return (kw_result){.rv = f->C_Login(session, user, len ? pin : NULL, len)};
}

kw_result kw_init_token(kw_functions *f, kw_ulong slot, kw_byte *pin, kw_ulong len, kw_byte *label)
{
	return (kw_result){.rv = f->C_InitToken(slot, pin, len, label)};
}

kw_result kw_init_pin(kw_functions *f, kw_ulong session, kw_byte *pin, kw_ulong len)
{
	return (kw_result){.rv = f->C_InitPIN(session, pin, len)};
}
