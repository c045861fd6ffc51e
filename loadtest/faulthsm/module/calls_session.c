/* The functions of sessions, and how many there may be. */
#include "calls.h"
#include "device.h"

uint64_t session_limit(const struct plan *p, CK_RV *code, int64_t *linger)
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

CK_RV f_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, void *app, void *notify, CK_SESSION_HANDLE *out)
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

CK_RV f_C_CloseSession(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_CloseSession);
	if (before(&c)) {
		REAL(C_CloseSession, s);
		if (c.rv == CKR_OK)
			track_close(s);
	}
	return finish(&c);
}

CK_RV f_C_CloseAllSessions(CK_SLOT_ID slot)
{
	CALL_OF(C_CloseAllSessions, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_CloseAllSessions, slot);
		if (c.rv == CKR_OK)
			track_close_slot(slot);
	}
	return finish(&c);
}

CK_RV f_C_GetSessionInfo(CK_SESSION_HANDLE s, CK_SESSION_INFO *info)
{
	IN_SESSION(C_GetSessionInfo);
	if (before(&c))
		REAL(C_GetSessionInfo, s, info);
	return finish(&c);
}

CK_RV f_C_GetOperationState(CK_SESSION_HANDLE s, CK_BYTE *out, CK_ULONG *len)
{
	IN_SESSION(C_GetOperationState, .out = out, .len = len);
	if (before(&c))
		REAL(C_GetOperationState, s, out, len);
	return finish(&c);
}

CK_RV f_C_SetOperationState(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_OBJECT_HANDLE k1, CK_OBJECT_HANDLE k2)
{
	IN_SESSION(C_SetOperationState, .in = n, .has_key = 1, .key = k1, .key2 = k2);
	if (before(&c) && ours(&c, &k1, CKR_KEY_HANDLE_INVALID) && ours(&c, &k2, CKR_KEY_HANDLE_INVALID))
		REAL(C_SetOperationState, s, in, n, k1, k2);
	return finish(&c);
}

CK_RV f_C_GetFunctionStatus(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_GetFunctionStatus);
	if (before(&c))
		REAL(C_GetFunctionStatus, s);
	return finish(&c);
}

CK_RV f_C_CancelFunction(CK_SESSION_HANDLE s)
{
	IN_SESSION(C_CancelFunction);
	if (before(&c))
		REAL(C_CancelFunction, s);
	return finish(&c);
}

