/* The functions of the library, its slots and tokens. */
#include "calls.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

struct counters counters[FN_COUNT];
_Atomic int initialized;

CK_RV f_C_Initialize(void *args)
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

CK_RV f_C_Finalize(void *reserved)
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

CK_RV f_C_GetInfo(void *info)
{
	CALL_OF(C_GetInfo);
	if (before(&c))
		REAL(C_GetInfo, info);
	return finish(&c);
}

CK_RV f_C_GetFunctionList(CK_FUNCTION_LIST **out)
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

CK_RV f_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID *slots, CK_ULONG *n)
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

CK_RV f_C_GetSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO *info)
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

/* tell_time lets the token's clock differ from this machine's, in whole seconds as PKCS#11 has it (YYYYMMDDhhmmss00). */
static void tell_time(const struct item *clock, CK_TOKEN_INFO *info)
{
	char text[64];
	struct tm tm;
	time_t at = time(NULL) + (time_t)(clock->time / 1000000000);
	info->flags &= ~CKF_CLOCK_ON_TOKEN;
	memset(info->time, ' ', sizeof info->time);
	if (clock->absent || gmtime_r(&at, &tm) == NULL)
		return;
	info->flags |= CKF_CLOCK_ON_TOKEN;
	snprintf(text, sizeof text, "%04d%02d%02d%02d%02d%02d00", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	memcpy(info->time, text, sizeof info->time);
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
	if (c->plan && c->plan->clock) {
		tell_time(c->plan->clock, info);
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

CK_RV f_C_GetTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO *info)
{
	CALL_OF(C_GetTokenInfo, .has_slot = 1, .slot = slot);
	if (before(&c)) {
		REAL(C_GetTokenInfo, slot, info);
		if (unlikely(c.armed) && c.rv == CKR_OK)
			doctor(&c, info);
	}
	return finish(&c);
}

CK_RV f_C_GetMechanismList(CK_SLOT_ID slot, CK_ULONG *types, CK_ULONG *n)
{
	CALL_OF(C_GetMechanismList, .has_slot = 1, .slot = slot);
	if (before(&c))
		REAL(C_GetMechanismList, slot, types, n);
	return finish(&c);
}

CK_RV f_C_GetMechanismInfo(CK_SLOT_ID slot, CK_ULONG type, void *info)
{
	CALL_OF(C_GetMechanismInfo, .has_slot = 1, .slot = slot, .has_mechanism = 1, .mechanism = type);
	if (before(&c))
		REAL(C_GetMechanismInfo, slot, type, info);
	return finish(&c);
}

CK_RV f_C_WaitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID *slot, void *reserved)
{
	CALL_OF(C_WaitForSlotEvent);
	if (before(&c)) /* outside the gate: it may wait for ever, as it is meant to */
		c.rv = real->C_WaitForSlotEvent ? real->C_WaitForSlotEvent(flags, slot, reserved) : CKR_FUNCTION_NOT_SUPPORTED;
	return finish(&c);
}

CK_FUNCTION_LIST list = {
	.version = {2, 40},
#define X(name, parameters) .name = f_##name,
	CK_FUNCTIONS(X)
#undef X
};
