/*
 * The control language: one statement a line, each of which becomes one item. README.md beside the
 * Go package has the grammar. This file and names.c know nothing of a running module, so that the
 * checker (lint.c) is the same parser.
 */
#ifndef FAULTHSM_LANG_H
#define FAULTHSM_LANG_H

#include "ck.h"

#include <pthread.h>
#include <stdatomic.h>

#define ID_MAX 32
#define EFFECTS_MAX 8
#define LINE_MAX_LEN 4096
#define ITEMS_MAX 4096
#define SERVERS_MAX 1024

enum dist_kind { FIXED, UNIFORM, EXPONENTIAL, LOGNORMAL };

/* A distribution of times in nanoseconds: a (fixed, the least, the mean, the median), b (the most; sigma of the logarithm). */
struct dist { enum dist_kind kind; double a, b; };

enum effect_kind {
	CALL, RETURN, SLEEP, HANG, CRASH, LOGOUT, CLOSE_SESSION, CLOSE_SESSIONS, FORGET_OBJECTS, REMOVE_TOKEN,
	FLIP, SHORTEN, LEAK, SERVE, NOTHING
};

struct effect {
	enum effect_kind kind;
	struct dist dist;   /* SLEEP, SERVE */
	CK_RV code;         /* RETURN; LOGOUT and SERVE when has_code */
	int has_code;
	int leave_active;   /* RETURN: the operation stays pending in the token */
	int64_t time;       /* ns. REMOVE_TOKEN: how long, 0 for ever; SERVE: the longest queue */
	uint64_t n;         /* FLIP: which bit, UINT64_MAX for any; SHORTEN, LEAK: bytes; SERVE: how many servers */
};

enum item_kind { RULE, LIMIT_SESSIONS, LIMIT_OBJECTS, LIMIT_OPENS, PIN_TRIES, CLOCK, TOKEN, DEVICE, SEED };

enum origin { FROM_FILE, FROM_SOCKET };

/* One condition on a number that is there or not. */
struct want { int set; uint64_t value; };

/* One statement. What is below the line changes while it is in force; the rest does not. */
struct item {
	enum item_kind kind;
	char id[ID_MAX + 1];
	char *text; /* the statement in its one canonical form */

	/* RULE */
	uint8_t on[FN_COUNT];
	uint64_t nth, every, skip, times; /* 0: not said */
	double probability;               /* 0: not said */
	int64_t from, lasts;              /* ns, 0: not said */
	struct want session, key, slot, mechanism;
	struct effect effects[EFFECTS_MAX];
	int effect_count;
	int calls; /* CALL is among the effects */

	/* the others */
	uint64_t n;         /* limits, tries, seed */
	int64_t time;       /* ns. LIMIT_SESSIONS: linger; LIMIT_OPENS: period; CLOCK: how far ahead, below 0 behind */
	CK_RV code;         /* limits; TOKEN */
	int absent;         /* TOKEN, CLOCK */
	const struct device *device;
	double scale;       /* DEVICE */

	/* --- in force --- */
	enum origin origin;
	atomic_int refs;
	int64_t since;      /* when it came into force, monotonic ns */
	uint64_t salt;      /* makes its random choices its own */
	_Atomic uint64_t seen, fired, returned;
	_Atomic int waiting; /* calls that sleep or hang in it now */
	pthread_mutex_t mu;
	pthread_cond_t changed;
	uint64_t released;  /* under mu */
	int gone;           /* under mu */
	_Atomic int64_t *free_at; /* SERVE and DEVICE: when each server is free; see wait.c */
	int owns_servers;   /* free_at is memory of this item's own */
	_Atomic int64_t opened[64]; /* LIMIT_OPENS: when the last sessions were opened */
	_Atomic uint64_t opens;
};

struct items { struct item **at; size_t n; };

struct lang_error { unsigned line; char text[400]; }; /* line 0: of no line */

/* lang_error_text writes an error with its line, if it has one, into a buffer and returns it. */
const char *lang_error_text(const struct lang_error *e, char *buffer, size_t size);

/*
 * lang_parse reads statements. It returns 1 and gives the caller the items, or 0 and fills in the
 * error, which names the line and what to write instead.
 */
int lang_parse(const char *text, size_t len, struct items *out, struct lang_error *e);

/* lang_statement reports whether a word begins a statement. */
int lang_statement(const char *word);

/* item_new makes an empty item, NULL without memory. */
struct item *item_new(void);

/* item_free frees an item nobody refers to any more; items_free those of a list, and the list. */
void item_free(struct item *it);
void items_free(struct items *l);

/* in_session are the functions of PKCS#11 that take a session, computes those that do cryptography beside preparing it. */
int in_session(int f);
int computes(int f);

/* canonical is the statement in its one form: two statements mean the same if, and only if, it is the same. The caller frees it. */
char *canonical(const struct item *it);

/* effect_text writes an effect as the language has it. */
void effect_text(const struct effect *e, char *out, size_t size);

/* lang_effect reads one effect given as words, for the verb "now". */
int lang_effect(const char *text, struct effect *out, struct lang_error *e);

#endif
