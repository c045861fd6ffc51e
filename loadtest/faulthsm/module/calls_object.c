/* The functions of objects, and how many session objects there may be. */
#include "calls.h"
#include "device.h"

int is_set(const CK_ATTRIBUTE *a, CK_ULONG n, CK_ULONG type, int standard)
{
	for (CK_ULONG i = 0; a && i < n; i++)
		if (a[i].type == type && a[i].value && a[i].len == 1)
			return *(CK_BBOOL *)a[i].value != 0;
	return standard;
}

/* Objects that are being made: counted before they exist, so that threads cannot pass the limit together. */
static _Atomic uint64_t making;

/* room reserves place for n session objects; it returns 0 when they are too many. given_back must follow. */
static int room(struct call *c, uint64_t n)
{
	uint64_t now = atomic_fetch_add(&making, n) + n;
	const struct plan *p = c->plan;
	uint64_t most = UINT64_MAX;
	CK_RV code = CKR_DEVICE_MEMORY;
	if (p && p->limit_objects)
		most = p->limit_objects->n, code = p->limit_objects->code;
	else if (p && p->device && p->device->device->objects)
		most = p->device->device->objects;
	if (likely(most == UINT64_MAX) || n == 0 || track_objects() + now <= most)
		return 1;
	c->rv = code;
	c->altered = 1;
	return 0;
}

static void given_back(uint64_t n) { atomic_fetch_sub(&making, n); }

static void made(struct call *c, CK_OBJECT_HANDLE h, const CK_ATTRIBUTE *a, CK_ULONG n)
{
	if (c->rv == CKR_OK && !is_set(a, n, CKA_TOKEN, 0))
		track_object(c->session, h, is_set(a, n, CKA_PRIVATE, 1));
}

/* MAKE is a call that makes one object after a template: real call, book-keeping, and the handle only if all is well. */
#define MAKE(a, n, out, f, ...) \
	do { \
		CK_OBJECT_HANDLE h = 0, *hp = (out) ? &h : NULL; \
		uint64_t k = !is_set(a, n, CKA_TOKEN, 0); \
		if (before(&c) && (READY)) { \
			if (room(&c, k)) { \
				REAL(f, __VA_ARGS__); \
				made(&c, h, a, n); \
			} \
			given_back(k); \
		} \
		CK_RV rv = finish(&c); \
		if (rv == CKR_OK && (out)) \
			*(out) = theirs(h); \
		return rv; \
	} while (0)

CK_RV f_C_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_CreateObject);
#define READY 1
	MAKE(a, n, out, C_CreateObject, s, a, n, hp);
#undef READY
}

CK_RV f_C_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_CopyObject, .has_key = 1, .key = o);
#define READY ours(&c, &o, CKR_OBJECT_HANDLE_INVALID)
	MAKE(a, n, out, C_CopyObject, s, o, a, n, hp);
#undef READY
}

CK_RV f_C_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_GenerateKey, WITH(m));
#define READY 1
	MAKE(a, n, out, C_GenerateKey, s, m, a, n, hp);
#undef READY
}

CK_RV f_C_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE kek, CK_BYTE *in, CK_ULONG len,
                           CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_UnwrapKey, WITH(m), .has_key = 1, .key = kek, .in = len);
#define READY ours(&c, &kek, CKR_UNWRAPPING_KEY_HANDLE_INVALID)
	MAKE(a, n, out, C_UnwrapKey, s, m, kek, in, len, a, n, hp);
#undef READY
}

CK_RV f_C_DeriveKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_DeriveKey, WITH(m), .has_key = 1, .key = base);
#define READY ours(&c, &base, CKR_KEY_HANDLE_INVALID)
	MAKE(a, n, out, C_DeriveKey, s, m, base, a, n, hp);
#undef READY
}

/* pair_size is the size of a pair in bytes, as far as the template tells: of the modulus, or of the curve by its object identifier. */
static CK_ULONG pair_size(const CK_ATTRIBUTE *a, CK_ULONG n)
{
	for (CK_ULONG i = 0; a && i < n; i++) {
		const CK_BYTE *v = a[i].value;
		if (a[i].type == CKA_MODULUS_BITS && v && a[i].len == sizeof(CK_ULONG))
			return (*(const CK_ULONG *)a[i].value + 7) / 8;
		if (a[i].type == CKA_EC_PARAMS && v && a[i].len == 7)
			return v[6] == 0x23 ? 66 : 48; /* 1.3.132.0.35 is P-521, 1.3.132.0.34 P-384 */
	}
	return 32;
}

CK_RV f_C_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE *b, CK_ULONG k,
                                 CK_OBJECT_HANDLE *pub, CK_OBJECT_HANDLE *prv)
{
	IN_SESSION(C_GenerateKeyPair, WITH(m), .in = pair_size(a, n));
	CK_OBJECT_HANDLE h1 = 0, h2 = 0;
	uint64_t objects = (uint64_t)!is_set(a, n, CKA_TOKEN, 0) + (uint64_t)!is_set(b, k, CKA_TOKEN, 0);
	if (before(&c)) {
		if (room(&c, objects)) {
			REAL(C_GenerateKeyPair, s, m, a, n, b, k, pub ? &h1 : NULL, prv ? &h2 : NULL);
			made(&c, h1, a, n);
			made(&c, h2, b, k);
		}
		given_back(objects);
	}
	CK_RV rv = finish(&c);
	if (rv == CKR_OK && pub)
		*pub = theirs(h1);
	if (rv == CKR_OK && prv)
		*prv = theirs(h2);
	return rv;
}

CK_RV f_C_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	IN_SESSION(C_DestroyObject, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID)) {
		REAL(C_DestroyObject, s, o);
		if (c.rv == CKR_OK)
			track_object_gone(o);
	}
	return finish(&c);
}

CK_RV f_C_GetObjectSize(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ULONG *size)
{
	IN_SESSION(C_GetObjectSize, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_GetObjectSize, s, o, size);
	return finish(&c);
}

CK_RV f_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_GetAttributeValue, .has_key = 1, .key = o);
	if (a && n)
		c.out = a[0].value, c.len = &a[0].len;
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_GetAttributeValue, s, o, a, n);
	return finish(&c);
}

CK_RV f_C_SetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_SetAttributeValue, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_SetAttributeValue, s, o, a, n);
	return finish(&c);
}

CK_RV f_C_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_FindObjectsInit);
	if (before(&c))
		REAL(C_FindObjectsInit, s, a, n);
	return finish(&c);
}

CK_RV f_C_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *out, CK_ULONG max, CK_ULONG *n)
{
	IN_SESSION(C_FindObjects);
	if (before(&c)) {
		REAL(C_FindObjects, s, out, max, n);
		for (CK_ULONG i = 0; c.rv == CKR_OK && i < *n; i++)
			out[i] = theirs(out[i]);
	}
	return finish(&c);
}

CK_RV f_C_FindObjectsFinal(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_FindObjectsFinal);
	if (before(&c)) {
		REAL(C_FindObjectsFinal, s);
	} else if (c.end) {
		CK_RV rv = c.rv;
		REAL(C_FindObjectsFinal, s);
		c.rv = rv;
	}
	return finish(&c);
}
