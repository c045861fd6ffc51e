/*
 * What the functions that callers see have in common: each looks at what is to be done to the call, passes it to the
 * real module, and keeps book. With nothing to be done a call costs two counters and the gate.
 */
#ifndef FAULTHSM_CALLS_H
#define FAULTHSM_CALLS_H

#include "faulthsm.h"

#define X(name, parameters) CK_RV f_##name parameters;
CK_FUNCTIONS(X)
#undef X

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

/* is_set is a flag of a template, standard when the template does not say. */
int is_set(const CK_ATTRIBUTE *a, CK_ULONG n, CK_ULONG type, int standard);

#endif
