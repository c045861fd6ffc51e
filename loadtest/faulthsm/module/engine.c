/* What rules do to a call, before and after the token is called. */
#include "faulthsm.h"
#include "device.h"

#include <stdlib.h>
#include <string.h>

_Atomic int armed;
_Atomic uint64_t leaked;

/* Chained, so that leaked memory stays reachable: it is meant, and a leak checker shall find only what is not. */
struct leak { struct leak *before; };
static _Atomic(struct leak *) leaks;

static void leak(uint64_t n)
{
	struct leak *l = malloc(n < sizeof *l ? sizeof *l : n);
	if (l == NULL)
		return;
	memset(l, 0xA5, n < sizeof *l ? sizeof *l : n); /* untouched memory would not count */
	l->before = atomic_load(&leaks);
	while (!atomic_compare_exchange_weak(&leaks, &l->before, l))
		;
	atomic_fetch_add(&leaked, n);
}

/* operation says which pending operation a function works on, -1 for none. */
static int operation(enum fn f)
{
	if (f >= FN_C_Encrypt && f <= FN_C_EncryptFinal)
		return OP_ENCRYPT;
	if (f >= FN_C_Decrypt && f <= FN_C_DecryptFinal)
		return OP_DECRYPT;
	if (f >= FN_C_Digest && f <= FN_C_DigestFinal)
		return OP_DIGEST;
	if (f >= FN_C_Sign && f <= FN_C_SignFinal)
		return OP_SIGN;
	if (f == FN_C_SignRecover)
		return OP_SIGN_RECOVER;
	if (f >= FN_C_Verify && f <= FN_C_VerifyFinal)
		return OP_VERIFY;
	if (f == FN_C_VerifyRecover)
		return OP_VERIFY_RECOVER;
	if (f == FN_C_DigestEncryptUpdate || f == FN_C_SignEncryptUpdate)
		return OP_ENCRYPT;
	if (f == FN_C_DecryptDigestUpdate || f == FN_C_DecryptVerifyUpdate)
		return OP_DECRYPT;
	return -1;
}

/* find_out fills in what a call's arguments do not say but an earlier call did. */
static void find_out(struct call *c)
{
	int op = operation(c->fn);
	if (c->session && !c->has_slot)
		c->has_slot = track_slot(c->session, &c->slot);
	if (op >= 0 && !c->has_key && track_op_of(c->session, (enum op)op, &c->mechanism, &c->key))
		c->has_mechanism = c->has_key = 1;
}

static int fits(const struct item *it, const struct call *c)
{
	return it->on[c->fn] &&
	       (!it->session.set || (c->session && it->session.value == c->session)) &&
	       (!it->slot.set || (c->has_slot && it->slot.value == c->slot)) &&
	       (!it->key.set || (c->has_key && (it->key.value == c->key || it->key.value == c->key2))) &&
	       (!it->mechanism.set || (c->has_mechanism && it->mechanism.value == c->mechanism));
}

/* fires counts a call that fits a rule and decides whether the rule acts on it: 0, or which fitting call it is. */
static uint64_t fires(struct item *it, const struct call *c)
{
	int64_t age = c->start - it->since;
	if (!fits(it, c) || age < it->from || (it->lasts && age >= it->from + it->lasts))
		return 0;
	uint64_t i = atomic_fetch_add(&it->seen, 1) + 1;
	if (it->nth && i != it->nth)
		return 0;
	if (i <= it->skip)
		return 0;
	if (it->every && (i - it->skip) % it->every != 0)
		return 0;
	if (it->probability > 0 && it->probability < 1 && (double)(chance(c->plan->seed, it, i) >> 11) * 0x1p-53 >= it->probability)
		return 0;
	uint64_t n = atomic_load(&it->fired);
	do
		if (it->times && n >= it->times)
			return 0;
	while (!atomic_compare_exchange_weak(&it->fired, &n, n + 1));
	return i;
}

static void later(struct call *c, struct item *it, uint64_t index, int next, int only)
{
	if (c->fired_count == c->fired_room) {
		int room = c->fired_room ? 2 * c->fired_room : 8;
		struct fired *more = realloc(c->fired, (size_t)room * sizeof *more);
		if (more == NULL)
			return;
		c->fired = more, c->fired_room = room;
	}
	c->fired[c->fired_count++] = (struct fired){it, index, next, only};
}

static void answer(struct call *c, CK_RV rv)
{
	c->rv = rv;
	c->altered = 1;
}

/* only_length: the caller asks how long the result would be, which costs a device nothing and has no bits to flip. */
static int only_length(const struct call *c) { return c->len && c->out == NULL; }

static void crash(void)
{
	int *volatile nowhere = NULL; /* as a library that follows a bad pointer does */
	*(volatile int *)nowhere = 1;
	__builtin_trap();
}

/* draw is a random number of its own for each fitting call and each effect of a rule. */
static uint64_t draw(const struct call *c, const struct item *it, uint64_t index, int effect)
{
	return chance(c->plan->seed, it, index ^ (uint64_t)(effect + 1) << 56);
}

static void flip(struct call *c, const struct effect *f, uint64_t random)
{
	if (c->rv != CKR_OK || c->out == NULL || c->len == NULL || *c->len == 0)
		return;
	uint64_t bits = (uint64_t)*c->len * 8;
	uint64_t bit = (f->n == UINT64_MAX ? random : f->n) % bits;
	c->out[bit / 8] ^= (CK_BYTE)(0x80 >> bit % 8);
	c->altered = 1;
}

static void shorten(struct call *c, const struct effect *f)
{
	if (c->rv != CKR_OK || c->out == NULL || c->len == NULL)
		return;
	CK_ULONG cut = f->n < *c->len ? (CK_ULONG)f->n : *c->len;
	memset(c->out + *c->len - cut, 0, cut);
	*c->len -= cut;
	c->altered = 1;
}

/* common carries out the effects that are the same before and after. */
static void common(struct call *c, struct item *it, const struct effect *f, uint64_t random)
{
	const char *why = NULL;
	switch (f->kind) {
	case SLEEP:
		wait_until(it, now_ns() + (int64_t)dist_sample(&f->dist, random), 0);
		break;
	case HANG: wait_until(it, INT64_MAX, 1); break;
	case CRASH: crash(); break;
	case LOGOUT: why = token_logout(c->has_slot ? &c->slot : NULL, f->has_code, f->code); break;
	case CLOSE_SESSION: why = c->session ? token_close_session(c->session) : NULL; break;
	case CLOSE_SESSIONS: why = token_close_sessions(c->has_slot ? &c->slot : NULL); break;
	case FORGET_OBJECTS: token_forget_objects(); break;
	case REMOVE_TOKEN: why = token_remove(f->time); break;
	case LEAK: leak(f->n); break;
	default: break;
	}
	if (why)
		log_note("%s: %s", it->id, why);
}

/* run_before carries out a rule's effects up to the call; it returns 1 when the rule answered. */
static int run_before(struct call *c, struct item *it, uint64_t index)
{
	for (int i = 0; i < it->effect_count; i++) {
		const struct effect *f = &it->effects[i];
		switch (f->kind) {
		case CALL:
			later(c, it, index, i + 1, 0);
			return 0;
		case FLIP: case SHORTEN:
			later(c, it, index, i, 0);
			return 0; /* which only make sense after the call, as all that follows them */
		case SERVE:
			if (f->has_code && !only_length(c) && backlog(it->free_at, (unsigned)f->n, c->start) > f->time) {
				log_effect(c, it->id, f);
				answer(c, f->code);
				c->end = 1;
				return 1;
			}
			later(c, it, index, i, 1);
			break; /* around the call: what follows is still before it */
		case RETURN:
			log_effect(c, it->id, f);
			answer(c, f->code);
			c->end = !f->leave_active;
			return 1;
		default:
			log_effect(c, it->id, f);
			common(c, it, f, draw(c, it, index, i));
		}
	}
	return 0;
}

static void served(struct call *c, struct item *it, unsigned servers, double ns)
{
	if (only_length(c) || ns < 1)
		return;
	wait_until(it, serve(it->free_at, servers, c->start, (int64_t)ns), 0);
}

static void run_after(struct call *c, const struct fired *fired)
{
	struct item *it = fired->it;
	for (int i = fired->next; i < (fired->only ? fired->next + 1 : it->effect_count); i++) {
		const struct effect *f = &it->effects[i];
		uint64_t random = draw(c, it, fired->index, i);
		log_effect(c, it->id, f);
		switch (f->kind) {
		case FLIP: flip(c, f, random); break;
		case SHORTEN: shorten(c, f); break;
		case SERVE: served(c, it, (unsigned)f->n, dist_sample(&f->dist, random)); break;
		case RETURN:
			if (c->rv == CKR_OK && f->code != CKR_OK && c->out && c->len)
				memset(c->out, 0, *c->len); /* the answer got lost, so nobody has seen it */
			answer(c, f->code);
			break;
		default: common(c, it, f, random);
		}
	}
}

/* needs_key are the functions that fail when nobody is logged in. */
static int needs_key(enum fn f)
{
	return (f >= FN_C_CreateObject && f <= FN_C_SetAttributeValue) || (f >= FN_C_EncryptInit && f <= FN_C_DeriveKey &&
	       !(f >= FN_C_DigestInit && f <= FN_C_DigestFinal));
}

/* in_slot are the functions that ask for a token by its slot. */
static int in_slot(enum fn f)
{
	return (f >= FN_C_GetTokenInfo && f <= FN_C_InitToken) || f == FN_C_OpenSession || f == FN_C_CloseAllSessions;
}

int before_slow(struct call *c)
{
	c->armed = 1;
	c->start = now_ns();
	find_out(c);
	c->plan = plan_hold();
	for (size_t i = 0; c->plan && i < c->plan->n; i++) {
		struct item *it = c->plan->at[i];
		uint64_t index = it->kind == RULE ? fires(it, c) : 0;
		if (index && run_before(c, it, index))
			return 0;
	}
	CK_RV away = token_away(c->plan);
	if (away != CKR_OK && (c->session || in_slot(c->fn))) {
		answer(c, c->session ? away : CKR_TOKEN_NOT_PRESENT);
		return 0;
	}
	if (c->session && c->has_slot && needs_key(c->fn)) {
		CK_RV code = token_login_code(c->slot);
		if (code != CKR_OK) {
			answer(c, code);
			return 0;
		}
	}
	return 1;
}

static void device_time(struct call *c)
{
	struct item *it = c->plan->device;
	enum work w = device_work(c->fn, c->mechanism, c->in, c->len ? *c->len : 0);
	if (w == WORK_NONE || c->altered || c->rv == CKR_BUFFER_TOO_SMALL)
		return;
	double ms = it->device->ms[w] * it->scale;
	if (ms > 0 && it->device->sigma > 0) {
		struct dist d = {LOGNORMAL, ms * 1e6, it->device->sigma};
		ms = dist_sample(&d, chance(c->plan->seed, it, atomic_fetch_add(&it->seen, 1))) / 1e6;
	} else
		atomic_fetch_add(&it->seen, 1);
	atomic_fetch_add(&it->fired, ms > 0);
	served(c, it, it->device->servers, ms * 1e6);
}

void after_slow(struct call *c)
{
	if (c->plan) {
		if (c->plan->device)
			device_time(c);
		for (int i = 0; i < c->fired_count; i++)
			run_after(c, &c->fired[i]);
	}
	free(c->fired);
	plan_drop(c->plan);
}

const char *engine_now(const struct effect *f)
{
	struct call c = {.fn = FN_COUNT};
	const char *why = NULL;
	switch (f->kind) {
	case LOGOUT: why = token_logout(NULL, f->has_code, f->code); break;
	case CLOSE_SESSIONS: why = token_close_sessions(NULL); break;
	case FORGET_OBJECTS: token_forget_objects(); break;
	case REMOVE_TOKEN: why = token_remove(f->time); break;
	case LEAK: leak(f->n); break;
	case CRASH: crash(); break;
	default: return "only logout, close-sessions, forget-objects, remove-token, leak and crash can be done at once: write a rule";
	}
	if (why == NULL)
		log_effect(&c, "now", f);
	return why;
}
