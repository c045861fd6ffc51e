/* Statements in their one canonical form. */
#include "words.h"
#include "device.h"
#include "names.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void effect_text(const struct effect *f, char *out, size_t size)
{
	char d[96], c[32], t[32];
	switch (f->kind) {
	case CALL: snprintf(out, size, "call"); break;
	case RETURN: snprintf(out, size, "return %s%s", name_code(f->code, c, sizeof c), f->leave_active ? " leave-active" : ""); break;
	case SLEEP: spread_text(&f->dist, d, sizeof d), snprintf(out, size, "sleep %s", d); break;
	case HANG: snprintf(out, size, "hang"); break;
	case CRASH: snprintf(out, size, "crash"); break;
	case LOGOUT:
		snprintf(out, size, "logout%s%s", f->has_code ? " code " : "", f->has_code ? name_code(f->code, c, sizeof c) : "");
		break;
	case CLOSE_SESSION: snprintf(out, size, "close-session"); break;
	case CLOSE_SESSIONS: snprintf(out, size, "close-sessions"); break;
	case FORGET_OBJECTS: snprintf(out, size, "forget-objects"); break;
	case REMOVE_TOKEN:
		if (f->time)
			time_text(f->time, t, sizeof t);
		snprintf(out, size, "remove-token%s%s", f->time ? " for " : "", f->time ? t : "");
		break;
	case FLIP:
		if (f->n == UINT64_MAX)
			snprintf(out, size, "flip");
		else
			snprintf(out, size, "flip bit %llu", (unsigned long long)f->n);
		break;
	case SHORTEN: snprintf(out, size, "shorten %lluB", (unsigned long long)f->n); break;
	case LEAK: snprintf(out, size, "leak %lluB", (unsigned long long)f->n); break;
	case SERVE:
		spread_text(&f->dist, d, sizeof d);
		if (f->has_code) {
			time_text(f->time, t, sizeof t);
			snprintf(out, size, "serve %llu %s refuse %s beyond %s", (unsigned long long)f->n, d, name_code(f->code, c, sizeof c), t);
		} else
			snprintf(out, size, "serve %llu %s", (unsigned long long)f->n, d);
		break;
	case NOTHING: snprintf(out, size, "nothing"); break;
	}
}

/* put appends to the canonical text. */
struct text { char at[LINE_MAX_LEN * 2]; size_t n; };

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *format, ...)
{
	va_list a;
	va_start(a, format);
	int n = vsnprintf(t->at + t->n, sizeof t->at - t->n, format, a);
	va_end(a);
	if (n > 0)
		t->n += (size_t)n < sizeof t->at - t->n ? (size_t)n : sizeof t->at - t->n - 1;
}

static void put_number(struct text *t, const char *word, uint64_t n)
{
	if (n)
		put(t, " %s %llu", word, (unsigned long long)n);
}

static void put_time(struct text *t, const char *word, int64_t ns)
{
	char b[32];
	if (ns) {
		time_text(ns, b, sizeof b);
		put(t, " %s %s", word, b);
	}
}

static void put_wanted(struct text *t, const char *word, struct want w)
{
	if (w.set)
		put(t, " %s %llu", word, (unsigned long long)w.value);
}

static void put_functions(struct text *t, const struct item *it)
{
	int all = 1, sessions = 1, crypto = 1;
	for (int i = 0; i < FN_COUNT; i++) {
		all &= it->on[i];
		sessions &= it->on[i] == in_session(i);
		crypto &= it->on[i] == computes(i);
	}
	if (all || sessions || crypto) {
		put(t, "%s", all ? "any" : sessions ? "session" : "crypto");
		return;
	}
	const char *comma = "";
	for (int i = 0; i < FN_COUNT; i++)
		if (it->on[i]) {
			put(t, "%s%s", comma, name_function((enum fn)i));
			comma = ",";
		}
}

static void put_rule(struct text *t, const struct item *it)
{
	char b[256];
	put(t, "rule %s on ", it->id);
	put_functions(t, it);
	put_number(t, "nth", it->nth);
	put_number(t, "every", it->every);
	put_number(t, "skip", it->skip);
	put_number(t, "times", it->times);
	if (it->probability > 0)
		put(t, " probability %.10g", it->probability);
	put_time(t, "from", it->from);
	put_time(t, "lasts", it->lasts);
	put_wanted(t, "session", it->session);
	put_wanted(t, "key", it->key);
	put_wanted(t, "slot", it->slot);
	if (it->mechanism.set)
		put(t, " mechanism %s", name_mechanism(it->mechanism.value, b, sizeof b));
	for (int i = 0; i < it->effect_count; i++) {
		effect_text(&it->effects[i], b, sizeof b);
		put(t, " %s %s", i ? "then" : "do", b);
	}
}

char *canonical(const struct item *it)
{
	struct text t = {.n = 0};
	char c[32];
	switch (it->kind) {
	case RULE: put_rule(&t, it); break;
	case LIMIT_SESSIONS:
		put(&t, "limit sessions %llu", (unsigned long long)it->n);
		put_time(&t, "linger", it->time);
		put(&t, " code %s", name_code(it->code, c, sizeof c));
		break;
	case LIMIT_OBJECTS: put(&t, "limit objects %llu code %s", (unsigned long long)it->n, name_code(it->code, c, sizeof c)); break;
	case LIMIT_OPENS:
		put(&t, "limit opens %llu", (unsigned long long)it->n);
		put_time(&t, "per", it->time);
		put(&t, " code %s", name_code(it->code, c, sizeof c));
		break;
	case PIN_TRIES: put(&t, "pin tries %llu", (unsigned long long)it->n); break;
	case CLOCK:
		time_text(it->time < 0 ? -it->time : it->time, c, sizeof c);
		put(&t, "clock %s%s", it->absent ? "absent" : it->time < 0 ? "behind " : "ahead ", it->absent ? "" : c);
		break;
	case TOKEN:
		if (it->absent)
			put(&t, "token absent code %s", name_code(it->code, c, sizeof c));
		else
			put(&t, "token present");
		break;
	case DEVICE: put(&t, "device %s scale %.10g", it->device->name, it->scale); break;
	case SEED: put(&t, "seed %llu", (unsigned long long)it->n); break;
	}
	return strdup(t.at);
}
