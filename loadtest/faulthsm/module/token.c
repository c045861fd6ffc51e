/*
 * What happens to the token itself: login lost, sessions lost, handles invalid, token away. What can be is really
 * done to the real module (C_Logout, C_CloseSession), so that every later call finds what a real loss
 * leaves behind, in that module's own words.
 */
#include "faulthsm.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define SLOTS 64

static pthread_rwlock_t gate;

/* A gate that waits to be closed lets nobody else in: a busy token would never let it close. */
__attribute__((constructor)) static void gate_make(void)
{
	pthread_rwlockattr_t a;
	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&gate, &a);
	pthread_rwlockattr_destroy(&a);
}

void gate_enter(void) { pthread_rwlock_rdlock(&gate); }
void gate_leave(void) { pthread_rwlock_unlock(&gate); }

/* gate_close returns NULL, or why not: a call that hangs inside the real module would hold it for ever. */
static const char *gate_close(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 5;
	return pthread_rwlock_timedwrlock(&gate, &t) == 0 ? NULL : "the real module has been busy with a call for 5 s";
}

_Atomic uint64_t object_epoch;

/* The slots with something the matter. */
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct { CK_SLOT_ID slot; CK_RV code; } logged_out[SLOTS];
static size_t logged_out_count;
static _Atomic int64_t away_until; /* 0: there; INT64_MAX: away until returned */

void gate_forked(void)
{
	gate_make();
	pthread_mutex_init(&mu, NULL);
}

const char *token_logout(const CK_SLOT_ID *slot, int has_code, CK_RV code)
{
	struct tracked some[SLOTS];
	const char *why = gate_close();
	if (why)
		return why;
	size_t n = real ? track_some(some, SLOTS) : 0;
	for (size_t i = 0; i < n; i++) {
		if (slot && some[i].slot != *slot)
			continue;
		if (real->C_Logout(some[i].h) == CKR_OK)
			track_logged_out(some[i].slot);
		if (!has_code)
			continue;
		pthread_mutex_lock(&mu);
		size_t j = 0;
		while (j < logged_out_count && logged_out[j].slot != some[i].slot)
			j++;
		if (j < SLOTS) {
			logged_out[j].slot = some[i].slot, logged_out[j].code = code;
			if (j == logged_out_count)
				logged_out_count++;
		}
		pthread_mutex_unlock(&mu);
	}
	gate_leave();
	plan_arm();
	return NULL;
}

const char *token_close_session(CK_SESSION_HANDLE h)
{
	const char *why = gate_close();
	if (why)
		return why;
	if (real && real->C_CloseSession(h) == CKR_OK)
		track_close(h);
	gate_leave();
	return NULL;
}

const char *token_close_sessions(const CK_SLOT_ID *slot)
{
	struct tracked some[SLOTS];
	const char *why = gate_close();
	if (why)
		return why;
	size_t n = real ? track_some(some, SLOTS) : 0;
	for (size_t i = 0; i < n; i++)
		if ((slot == NULL || some[i].slot == *slot) && real->C_CloseAllSessions(some[i].slot) == CKR_OK)
			track_close_slot(some[i].slot);
	gate_leave();
	return NULL;
}

void token_forget_objects(void)
{
	uint64_t e = atomic_fetch_add(&object_epoch, 1) + 1;
	if (e >> (64 - HANDLE_BITS)) /* 65,536 invalidations are more than anybody needs, but 0 means none */
		atomic_store(&object_epoch, 1);
}

const char *token_remove(int64_t for_ns)
{
	atomic_store(&away_until, for_ns ? now_ns() + for_ns : INT64_MAX);
	plan_arm();
	return token_close_sessions(NULL);
}

void token_return(void)
{
	atomic_store(&away_until, 0);
	plan_arm();
}

static int removed(void)
{
	int64_t until = atomic_load(&away_until);
	return until == INT64_MAX || (until && now_ns() < until);
}

CK_RV token_away(const struct plan *p)
{
	if (p && p->token && p->token->absent)
		return p->token->code;
	return removed() ? CKR_DEVICE_REMOVED : CKR_OK;
}

CK_RV token_login_code(CK_SLOT_ID slot)
{
	CK_RV code = CKR_OK;
	pthread_mutex_lock(&mu);
	for (size_t i = 0; i < logged_out_count; i++)
		if (logged_out[i].slot == slot)
			code = logged_out[i].code;
	pthread_mutex_unlock(&mu);
	return code;
}

static void login_known(const CK_SLOT_ID *slot)
{
	pthread_mutex_lock(&mu);
	size_t before = logged_out_count, kept = 0;
	for (size_t i = 0; i < before; i++)
		if (slot && logged_out[i].slot != *slot)
			logged_out[kept++] = logged_out[i];
	logged_out_count = kept;
	pthread_mutex_unlock(&mu);
	if (kept != before)
		plan_arm();
}

void token_logged_in(CK_SLOT_ID slot) { login_known(&slot); }

void token_finalized(void)
{
	track_clear();
	login_known(NULL);
}

int token_disturbed(void)
{
	pthread_mutex_lock(&mu);
	int any = logged_out_count > 0;
	pthread_mutex_unlock(&mu);
	return any || atomic_load(&away_until) != 0;
}
