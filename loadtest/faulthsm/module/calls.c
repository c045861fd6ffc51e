/*
 * The functions that callers see: each looks at what is to be done to the call, passes it to the real
 * module, and keeps book of sessions and objects. With nothing to be done a call costs two counters and the gate.
 */
#include "faulthsm.h"
#include "device.h"

#include <stdlib.h>
#include <string.h>

struct counters counters[FN_COUNT];
_Atomic int initialized;

static inline int before(struct call *c)
{
	atomic_fetch_add_explicit(&counters[c->fn].calls, 1, memory_order_relaxed);
	if (likely(!atomic_load_explicit(&armed, memory_order_relaxed)))
		return 1;
	return before_slow(c);
}

static inline CK_RV finish(struct call *c)
{
	if (unlikely(c->armed))
		after_slow(c);
	struct counters *n = &counters[c->fn];
	if (unlikely(c->rv != CKR_OK))
		atomic_fetch_add_explicit(&n->failed, 1, memory_order_relaxed);
	if (unlikely(c->altered))
		atomic_fetch_add_explicit(&n->altered, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&n->returned, 1, memory_order_relaxed);
	return c->rv;
}

/* REAL calls the real module; a function that it lacks would be a jump to nowhere for the caller. */
#define REAL(f, ...) \
	do { \
		if (unlikely(real->f == NULL)) { \
			c.rv = CKR_FUNCTION_NOT_SUPPORTED; \
		} else { \
			gate_enter(); \
			c.rv = real->f(__VA_ARGS__); \
			gate_leave(); \
		} \
	} while (0)

#define CALL_OF(f, ...) struct call c = {.fn = FN_##f, __VA_ARGS__}
#define IN_SESSION(f, ...) CALL_OF(f, .session = s, __VA_ARGS__)
#define WITH(m) .has_mechanism = (m) != NULL, .mechanism = (m) ? (m)->mechanism : 0

/* --- object handles: the upper bits say which invalidation a handle was given out after --- */

#define HANDLE_MASK ((1UL << HANDLE_BITS) - 1)

/* ours makes the module's handle of a caller's; a handle from before the last invalidation fails the call with rv. */
static inline int ours(struct call *c, CK_OBJECT_HANDLE *h, CK_RV rv)
{
	uint64_t e = atomic_load_explicit(&object_epoch, memory_order_relaxed);
	if (likely(e == 0) || *h == 0)
		return 1;
	if (*h >> HANDLE_BITS == e) {
		*h &= HANDLE_MASK;
		return 1;
	}
	c->rv = rv;
	c->altered = 1;
	return 0;
}

static inline CK_OBJECT_HANDLE theirs(CK_OBJECT_HANDLE h)
{
	uint64_t e = atomic_load_explicit(&object_epoch, memory_order_relaxed);
	return likely(e == 0) || h == 0 ? h : (h & HANDLE_MASK) | e << HANDLE_BITS;
}

/* --- ending what an answer without the token leaves pending in it --- */

static void discard(CK_RV (*f) CK_IO, CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	CK_ULONG len = n + 16384;
	CK_BYTE *scratch = f ? malloc(len) : NULL;
	if (scratch == NULL)
		return;
	gate_enter();
	(void)f(s, in, n, scratch, &len);
	gate_leave();
	explicit_bzero(scratch, n + 16384);
	free(scratch);
}

/* ask_length says how large the buffer must be, and leaves the operation pending. */
static void ask_length(CK_RV (*f) CK_IO, CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_ULONG *len)
{
	if (f == NULL)
		return;
	gate_enter();
	(void)f(s, in, n, NULL, len);
	gate_leave();
}

static void discard_final(CK_RV (*f) CK_OUT, CK_SESSION_HANDLE s)
{
	CK_BYTE scratch[16384];
	CK_ULONG len = sizeof scratch;
	if (f == NULL)
		return;
	gate_enter();
	(void)f(s, scratch, &len);
	gate_leave();
	explicit_bzero(scratch, sizeof scratch);
}

static void discard_verify(CK_SESSION_HANDLE s)
{
	CK_BYTE none[64] = {0};
	if (real->C_VerifyFinal == NULL)
		return;
	gate_enter();
	(void)real->C_VerifyFinal(s, none, sizeof none);
	gate_leave();
}

/* --- library, slots, tokens --- */

static CK_RV f_C_Initialize(void *args)
{
	control_load();
	control_start();
	CALL_OF(C_Initialize);
	if (before(&c))
		REAL(C_Initialize, args);
	if (c.rv == CKR_OK || c.rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
		atomic_store(&initialized, 1);
	return finish(&c);
}

static CK_RV f_C_Finalize(void *reserved)
{
	CALL_OF(C_Finalize);
	if (before(&c)) {
		REAL(C_Finalize, reserved);
		if (c.rv == CKR_OK) {
			atomic_store(&initialized, 0);
			token_finalized();
		}
	}
	return finish(&c);
}

static CK_RV f_C_GetInfo(void *info)
{
	CALL_OF(C_GetInfo);
	if (before(&c))
		REAL(C_GetInfo, info);
	return finish(&c);
}

static CK_RV f_C_GetFunctionList(CK_FUNCTION_LIST **out)
{
	CALL_OF(C_GetFunctionList);
	if (before(&c)) {
		if (out)
			*out = &list;
		else
			c.rv = 7; /* CKR_ARGUMENTS_BAD */
	}
	return finish(&c);
}

static CK_RV f_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n)
{
	CALL_OF(C_GetSlotList);
	if (before(&c)) {
		int away = unlikely(c.armed) && present && token_away(c.plan) != CKR_OK;
		REAL(C_GetSlotList, present, away ? NULL : slots, n); /* a list of none fits anywhere */
		if (away && c.rv == CKR_OK) {
			*n = 0;
			c.altered = 1;
		}
	}
	return finish(&c);
}

static CK_RV f_C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO *info)
{
	CALL_OF(C_GetSlotInfo, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_GetSlotInfo, slot, info);
		if (unlikely(c.armed) && c.rv == CKR_OK && token_away(c.plan) != CKR_OK) {
			info->flags &= ~CKF_TOKEN_PRESENT;
			c.altered = 1;
		}
	}
	return finish(&c);
}

/* session_limit is how many sessions there may be, 0 for no limit. */
static uint64_t session_limit(const struct plan *p, CK_RV *code, int64_t *linger)
{
	if (p == NULL)
		return 0;
	if (p->limit_sessions) {
		*code = p->limit_sessions->code, *linger = p->limit_sessions->time;
		return p->limit_sessions->n ? p->limit_sessions->n : UINT64_MAX; /* 0 allows none */
	}
	*code = CKR_SESSION_COUNT;
	*linger = p->device ? p->device->device->linger : 0;
	return p->device ? p->device->device->sessions : 0;
}

static void doctor(struct call *c, CK_TOKEN_INFO *info)
{
	CK_RV code;
	int64_t linger;
	uint64_t most = session_limit(c->plan, &code, &linger);
	if (most && most != UINT64_MAX) {
		info->max_sessions = info->max_rw_sessions = most;
		c->altered = 1;
	}
	if (c->plan && c->plan->pin_tries) {
		unsigned wrong = pin_wrong(info->serial), tries = (unsigned)c->plan->pin_tries->n;
		info->flags &= ~(CKF_USER_PIN_COUNT_LOW | CKF_USER_PIN_FINAL_TRY | CKF_USER_PIN_LOCKED);
		if (wrong > 0)
			info->flags |= CKF_USER_PIN_COUNT_LOW;
		if (wrong + 1 == tries)
			info->flags |= CKF_USER_PIN_FINAL_TRY;
		if (wrong >= tries)
			info->flags |= CKF_USER_PIN_LOCKED;
		c->altered = 1;
	}
}

static CK_RV f_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	CALL_OF(C_GetTokenInfo, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_GetTokenInfo, slot, info);
		if (unlikely(c.armed) && c.rv == CKR_OK)
			doctor(&c, info);
	}
	return finish(&c);
}

static CK_RV f_C_GetMechanismList(CK_SLOT_ID slot, CK_ULONG *types, CK_ULONG *n)
{
	CALL_OF(C_GetMechanismList, .has_slot = 1, .slot = slot);
	if (before(&c))
		REAL(C_GetMechanismList, slot, types, n);
	return finish(&c);
}

static CK_RV f_C_GetMechanismInfo(CK_SLOT_ID slot, CK_ULONG type, void *info)
{
	CALL_OF(C_GetMechanismInfo, .has_slot = 1, .slot = slot, .has_mechanism = 1, .mechanism = type);
	if (before(&c))
		REAL(C_GetMechanismInfo, slot, type, info);
	return finish(&c);
}

static CK_RV f_C_InitToken(CK_SLOT_ID slot, CK_BYTE *pin, CK_ULONG n, CK_UTF8CHAR *label)
{
	CALL_OF(C_InitToken, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_InitToken, slot, pin, n, label);
		if (unlikely(c.armed) && c.rv == CKR_OK)
			pin_reset(slot);
	}
	return finish(&c);
}

static CK_RV f_C_InitPIN(CK_SESSION_HANDLE s, CK_BYTE *pin, CK_ULONG n)
{
	IN_SESSION(C_InitPIN);
	if (before(&c)) {
		REAL(C_InitPIN, s, pin, n);
		if (unlikely(c.armed) && c.rv == CKR_OK && c.has_slot)
			pin_reset(c.slot);
	}
	return finish(&c);
}

/* tries_pin begins the counting of a try; it returns 0 when the PIN is locked. */
static int tries_pin(struct call *c, struct pin_count *p, int *counted)
{
	*counted = c->armed && c->plan && c->plan->pin_tries && c->has_slot;
	if (!*counted || !pin_begin(p, c->slot, (unsigned)c->plan->pin_tries->n))
		return 1;
	c->rv = CKR_PIN_LOCKED;
	c->altered = 1;
	return 0;
}

static CK_RV f_C_SetPIN(CK_SESSION_HANDLE s, CK_BYTE *old, CK_ULONG n, CK_BYTE *new, CK_ULONG m)
{
	IN_SESSION(C_SetPIN);
	struct pin_count p;
	int counted = 0;
	if (before(&c)) {
		if (tries_pin(&c, &p, &counted))
			REAL(C_SetPIN, s, old, n, new, m);
		if (counted)
			pin_end(&p, c.rv);
	}
	return finish(&c);
}

static CK_RV f_C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
	CALL_OF(C_WaitForSlotEvent);
	if (before(&c)) /* outside the gate: it may wait for ever, as it is meant to */
		c.rv = real->C_WaitForSlotEvent ? real->C_WaitForSlotEvent(flags, slot, reserved) : CKR_FUNCTION_NOT_SUPPORTED;
	return finish(&c);
}

/* --- sessions --- */

/* Held from looking at a limit until the session is counted. */
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

void calls_forked(void) { pthread_mutex_init(&opening, NULL); }

static int too_fast(struct item *it, uint64_t n, int64_t per, int64_t now)
{
	uint64_t i = atomic_load(&it->opens);
	int64_t oldest = atomic_load(&it->opened[i % n]);
	if (i >= n && now - oldest < per)
		return 1;
	atomic_store(&it->opened[i % n], now);
	atomic_store(&it->opens, i + 1);
	return 0;
}

static int may_open(struct call *c)
{
	const struct plan *p = c->plan;
	CK_RV code = CKR_SESSION_COUNT;
	int64_t linger = 0;
	uint64_t most = session_limit(p, &code, &linger);
	struct item *d = p ? p->device : NULL, *l = p ? p->limit_opens : NULL;
	int refused = 0;
	if (most && (most == UINT64_MAX || track_sessions() + shared_others(linger) >= most))
		refused = 1;
	else if (l && too_fast(l, l->n, l->time, c->start))
		refused = 1, code = l->code;
	else if (!l && d && d->device->opens && too_fast(d, d->device->opens, d->device->opens_per, c->start))
		refused = 1, code = d->device->opens_code;
	if (refused) {
		c->rv = code;
		c->altered = 1;
	}
	return !refused;
}

static CK_RV f_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *app, void *notify, CK_SESSION_HANDLE *out)
{
	CALL_OF(C_OpenSession, .has_slot = 1, .slot = slot);
	CK_SESSION_HANDLE h = 0;
	if (before(&c)) {
		int limited = c.plan != NULL;
		if (unlikely(limited))
			pthread_mutex_lock(&opening);
		if (!limited || may_open(&c)) {
			REAL(C_OpenSession, slot, flags, app, notify, out ? &h : NULL);
			if (c.rv == CKR_OK)
				track_open(h, slot);
		}
		if (unlikely(limited))
			pthread_mutex_unlock(&opening);
	}
	CK_RV rv = finish(&c);
	if (rv == CKR_OK && out)
		*out = h;
	return rv;
}

static CK_RV f_C_CloseSession(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_CloseSession);
	if (before(&c)) {
		REAL(C_CloseSession, s);
		if (c.rv == CKR_OK)
			track_close(s);
	}
	return finish(&c);
}

static CK_RV f_C_CloseAllSessions(CK_SLOT_ID slot)
{
	CALL_OF(C_CloseAllSessions, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_CloseAllSessions, slot);
		if (c.rv == CKR_OK)
			track_close_slot(slot);
	}
	return finish(&c);
}

static CK_RV f_C_GetSessionInfo(CK_SESSION_HANDLE s, CK_SESSION_INFO *info)
{
	IN_SESSION(C_GetSessionInfo);
	if (before(&c))
		REAL(C_GetSessionInfo, s, info);
	return finish(&c);
}

static CK_RV f_C_GetOperationState(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG *len)
{
	IN_SESSION(C_GetOperationState, .out = out, .len = len);
	if (before(&c))
		REAL(C_GetOperationState, s, out, len);
	return finish(&c);
}

static CK_RV f_C_SetOperationState(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_OBJECT_HANDLE k1, CK_OBJECT_HANDLE k2)
{
	IN_SESSION(C_SetOperationState, .in = n, .has_key = 1, .key = k1, .key2 = k2);
	if (before(&c) && ours(&c, &k1, CKR_KEY_HANDLE_INVALID) && ours(&c, &k2, CKR_KEY_HANDLE_INVALID))
		REAL(C_SetOperationState, s, in, n, k1, k2);
	return finish(&c);
}

static CK_RV f_C_Login(CK_SESSION_HANDLE s, CK_ULONG user, CK_BYTE *pin, CK_ULONG n)
{
	IN_SESSION(C_Login);
	struct pin_count p;
	int counted = 0;
	if (before(&c)) {
		if (user == CKU_SO || tries_pin(&c, &p, &counted)) {
			REAL(C_Login, s, user, pin, n);
			if (unlikely(c.armed) && c.rv == CKR_OK && c.has_slot)
				token_logged_in(c.slot);
		}
		if (counted)
			pin_end(&p, c.rv);
	}
	return finish(&c);
}

static CK_RV f_C_Logout(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_Logout);
	CK_SLOT_ID slot;
	if (before(&c)) {
		REAL(C_Logout, s);
		if (c.rv == CKR_OK && track_slot(s, &slot))
			track_logged_out(slot);
	}
	return finish(&c);
}

static CK_RV f_C_GetFunctionStatus(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_GetFunctionStatus);
	if (before(&c))
		REAL(C_GetFunctionStatus, s);
	return finish(&c);
}

static CK_RV f_C_CancelFunction(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_CancelFunction);
	if (before(&c))
		REAL(C_CancelFunction, s);
	return finish(&c);
}

/* --- objects --- */

static int is_set(const CK_ATTRIBUTE *a, CK_ULONG n, CK_ULONG type, int standard)
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

static CK_RV f_C_CreateObject(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_CreateObject);
#define READY 1
	MAKE(a, n, out, C_CreateObject, s, a, n, hp);
#undef READY
}

static CK_RV f_C_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_CopyObject, .has_key = 1, .key = o);
#define READY ours(&c, &o, CKR_OBJECT_HANDLE_INVALID)
	MAKE(a, n, out, C_CopyObject, s, o, a, n, hp);
#undef READY
}

static CK_RV f_C_GenerateKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_GenerateKey, WITH(m));
#define READY 1
	MAKE(a, n, out, C_GenerateKey, s, m, a, n, hp);
#undef READY
}

static CK_RV f_C_UnwrapKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE kek, CK_BYTE *in, CK_ULONG len,
                           CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	IN_SESSION(C_UnwrapKey, WITH(m), .has_key = 1, .key = kek, .in = len);
#define READY ours(&c, &kek, CKR_UNWRAPPING_KEY_HANDLE_INVALID)
	MAKE(a, n, out, C_UnwrapKey, s, m, kek, in, len, a, n, hp);
#undef READY
}

static CK_RV f_C_DeriveKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE base, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
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

static CK_RV f_C_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_ATTRIBUTE *a, CK_ULONG n, CK_ATTRIBUTE *b, CK_ULONG k,
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

static CK_RV f_C_DestroyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	IN_SESSION(C_DestroyObject, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID)) {
		REAL(C_DestroyObject, s, o);
		if (c.rv == CKR_OK)
			track_object_gone(o);
	}
	return finish(&c);
}

static CK_RV f_C_GetObjectSize(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ULONG *size)
{
	IN_SESSION(C_GetObjectSize, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_GetObjectSize, s, o, size);
	return finish(&c);
}

static CK_RV f_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_GetAttributeValue, .has_key = 1, .key = o);
	if (a && n)
		c.out = a[0].value, c.len = &a[0].len;
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_GetAttributeValue, s, o, a, n);
	return finish(&c);
}

static CK_RV f_C_SetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_SetAttributeValue, .has_key = 1, .key = o);
	if (before(&c) && ours(&c, &o, CKR_OBJECT_HANDLE_INVALID))
		REAL(C_SetAttributeValue, s, o, a, n);
	return finish(&c);
}

static CK_RV f_C_FindObjectsInit(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n)
{
	IN_SESSION(C_FindObjectsInit);
	if (before(&c))
		REAL(C_FindObjectsInit, s, a, n);
	return finish(&c);
}

static CK_RV f_C_FindObjects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE *out, CK_ULONG max, CK_ULONG *n)
{
	IN_SESSION(C_FindObjects);
	if (before(&c)) {
		REAL(C_FindObjects, s, out, max, n);
		for (CK_ULONG i = 0; c.rv == CKR_OK && i < *n; i++)
			out[i] = theirs(out[i]);
	}
	return finish(&c);
}

static CK_RV f_C_FindObjectsFinal(CK_SESSION_HANDLE s)
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

/* --- cryptography --- */

#define INIT(f, op) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE key) \
	{ \
		CK_OBJECT_HANDLE theirs_key = key; \
		IN_SESSION(f, WITH(m), .has_key = 1, .key = key); \
		if (before(&c) && ours(&c, &key, CKR_KEY_HANDLE_INVALID)) { \
			REAL(f, s, m, key); \
			if (c.rv == CKR_OK) \
				track_op(s, op, c.mechanism, theirs_key); \
		} \
		return finish(&c); \
	}

/* SINGLE is a function that does a whole operation: an answer without the token must end it there. */
#define SINGLE(f) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		else if (c.end && c.rv == CKR_BUFFER_TOO_SMALL) \
			ask_length(real->f, s, in, n, len); \
		else if (c.end) \
			discard(real->f, s, in, n); \
		return finish(&c); \
	}

#define UPDATE(f, final) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		else if (c.end && c.rv != CKR_BUFFER_TOO_SMALL) \
			discard_final(real->final, s); \
		return finish(&c); \
	}

#define FINAL(f) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, out, len); \
		else if (c.end && c.rv != CKR_BUFFER_TOO_SMALL) \
			discard_final(real->f, s); \
		return finish(&c); \
	}

#define FEED(f, final) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n) \
	{ \
		IN_SESSION(f, .in = n); \
		if (before(&c)) \
			REAL(f, s, in, n); \
		else if (c.end) \
			discard_final(real->final, s); \
		return finish(&c); \
	}

/* DUAL works on two operations at once, of which an answer without the token ends neither. */
#define DUAL(f) \
	static CK_RV f_##f(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *len) \
	{ \
		IN_SESSION(f, .in = n, .out = out, .len = len); \
		if (before(&c)) \
			REAL(f, s, in, n, out, len); \
		return finish(&c); \
	}

INIT(C_EncryptInit, OP_ENCRYPT)
SINGLE(C_Encrypt)
UPDATE(C_EncryptUpdate, C_EncryptFinal)
FINAL(C_EncryptFinal)
INIT(C_DecryptInit, OP_DECRYPT)
SINGLE(C_Decrypt)
UPDATE(C_DecryptUpdate, C_DecryptFinal)
FINAL(C_DecryptFinal)
SINGLE(C_Digest)
FEED(C_DigestUpdate, C_DigestFinal)
FINAL(C_DigestFinal)
INIT(C_SignInit, OP_SIGN)
SINGLE(C_Sign)
FEED(C_SignUpdate, C_SignFinal)
FINAL(C_SignFinal)
INIT(C_SignRecoverInit, OP_SIGN_RECOVER)
SINGLE(C_SignRecover)
INIT(C_VerifyInit, OP_VERIFY)
INIT(C_VerifyRecoverInit, OP_VERIFY_RECOVER)
SINGLE(C_VerifyRecover)
DUAL(C_DigestEncryptUpdate)
DUAL(C_DecryptDigestUpdate)
DUAL(C_SignEncryptUpdate)
DUAL(C_DecryptVerifyUpdate)

static CK_RV f_C_DigestInit(CK_SESSION_HANDLE s, CK_MECHANISM *m)
{
	IN_SESSION(C_DigestInit, WITH(m));
	if (before(&c)) {
		REAL(C_DigestInit, s, m);
		if (c.rv == CKR_OK)
			track_op(s, OP_DIGEST, c.mechanism, 0);
	}
	return finish(&c);
}

static CK_RV f_C_DigestKey(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key)
{
	IN_SESSION(C_DigestKey, .has_key = 1, .key = key);
	if (before(&c)) {
		if (ours(&c, &key, CKR_KEY_HANDLE_INVALID))
			REAL(C_DigestKey, s, key);
	} else if (c.end) {
		discard_final(real->C_DigestFinal, s);
	}
	return finish(&c);
}

static CK_RV f_C_Verify(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *sig, CK_ULONG len)
{
	IN_SESSION(C_Verify, .in = len);
	if (before(&c)) {
		REAL(C_Verify, s, in, n, sig, len);
	} else if (c.end) {
		CK_RV rv = c.rv;
		REAL(C_Verify, s, in, n, sig, len);
		c.rv = rv;
	}
	return finish(&c);
}

static CK_RV f_C_VerifyUpdate(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	IN_SESSION(C_VerifyUpdate, .in = n);
	if (before(&c))
		REAL(C_VerifyUpdate, s, in, n);
	else if (c.end)
		discard_verify(s);
	return finish(&c);
}

static CK_RV f_C_VerifyFinal(CK_SESSION_HANDLE s, CK_BYTE *sig, CK_ULONG len)
{
	IN_SESSION(C_VerifyFinal, .in = len);
	if (before(&c))
		REAL(C_VerifyFinal, s, sig, len);
	else if (c.end)
		discard_verify(s);
	return finish(&c);
}

static CK_RV f_C_WrapKey(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE kek, CK_OBJECT_HANDLE key, CK_BYTE *out, CK_ULONG *len)
{
	IN_SESSION(C_WrapKey, WITH(m), .has_key = 1, .key = kek, .key2 = key, .out = out, .len = len);
	if (before(&c) && ours(&c, &kek, CKR_WRAPPING_KEY_HANDLE_INVALID) && ours(&c, &key, CKR_KEY_HANDLE_INVALID))
		REAL(C_WrapKey, s, m, kek, key, out, len);
	return finish(&c);
}

static CK_RV f_C_SeedRandom(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n)
{
	IN_SESSION(C_SeedRandom, .in = n);
	if (before(&c))
		REAL(C_SeedRandom, s, in, n);
	return finish(&c);
}

static CK_RV f_C_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG n)
{
	CK_ULONG len = n;
	IN_SESSION(C_GenerateRandom, .out = out, .len = &len);
	if (before(&c))
		REAL(C_GenerateRandom, s, out, n);
	return finish(&c);
}

CK_FUNCTION_LIST list = {
	.version = {2, 40},
#define X(name, parameters) .name = f_##name,
	CK_FUNCTIONS(X)
#undef X
};
