#include "words.h"
#include "device.h"
#include "names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int optional_code(struct line *l, CK_RV standard, CK_RV *out)
{
	*out = standard;
	return !is(l, "code") || code(l, out);
}

static int limit(struct line *l, struct item *it)
{
	if (is(l, "sessions")) {
		it->kind = LIMIT_SESSIONS;
		strcpy(it->id, "limit-sessions");
		if (!whole(l, "how many sessions", 0, 1000000, &it->n))
			return 0;
		if (is(l, "linger") && !duration(l, "how long sessions of a dead process still count", &it->time))
			return 0;
		return optional_code(l, CKR_SESSION_COUNT, &it->code);
	}
	if (is(l, "objects")) {
		it->kind = LIMIT_OBJECTS;
		strcpy(it->id, "limit-objects");
		return whole(l, "how many session objects", 0, 100000000, &it->n) && optional_code(l, CKR_DEVICE_MEMORY, &it->code);
	}
	if (is(l, "opens")) {
		it->kind = LIMIT_OPENS;
		strcpy(it->id, "limit-opens");
		if (!whole(l, "how many sessions may be opened", 1, 64, &it->n))
			return 0;
		if (!is(l, "per"))
			return fail(l, "write \"per\" and a time, as limit opens 10 per 1s");
		return duration(l, "a time", &it->time) && optional_code(l, CKR_SESSION_COUNT, &it->code);
	}
	const char *w = peek(l);
	return fail(l, "unknown limit \"%s\": write limit sessions N, limit objects N or limit opens N per TIME", w ? w : "");
}

static int token(struct line *l, struct item *it)
{
	it->kind = TOKEN;
	strcpy(it->id, "token");
	if (is(l, "present"))
		return 1;
	if (!is(l, "absent"))
		return fail(l, "write token absent or token present");
	it->absent = 1;
	return optional_code(l, CKR_DEVICE_REMOVED, &it->code);
}

static int device(struct line *l, struct item *it)
{
	char known[256] = "";
	it->kind = DEVICE;
	it->scale = 1;
	strcpy(it->id, "device");
	for (size_t i = 0; device_at(i); i++)
		snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", device_at(i)->name);
	const char *w = next(l, "a device's name");
	if (w == NULL)
		return 0;
	it->device = device_named(w);
	if (it->device == NULL)
		return fail(l, "unknown device \"%s\": write one of %s", w, known);
	return !is(l, "scale") || fraction(l, "by how much its times are multiplied", 100, &it->scale);
}

static int pin(struct line *l, struct item *it)
{
	it->kind = PIN_TRIES;
	strcpy(it->id, "pin-tries");
	if (!is(l, "tries"))
		return fail(l, "write pin tries N: after N wrong PINs the PIN is locked");
	return whole(l, "how many wrong PINs lock it", 1, 100, &it->n);
}

static int token_clock(struct line *l, struct item *it)
{
	it->kind = CLOCK;
	strcpy(it->id, "clock");
	if (is(l, "ahead"))
		return duration(l, "how far it is ahead", &it->time);
	if (is(l, "behind")) {
		if (!duration(l, "how far it is behind", &it->time))
			return 0;
		it->time = -it->time;
		return 1;
	}
	if (!is(l, "absent"))
		return fail(l, "write clock ahead TIME, clock behind TIME or clock absent");
	it->absent = 1;
	return 1;
}

static int seed(struct line *l, struct item *it)
{
	it->kind = SEED;
	strcpy(it->id, "seed");
	return whole(l, "a seed", 0, UINT64_MAX, &it->n);
}

static const struct { const char *word; int (*parse)(struct line *, struct item *); } statements[] = {
	{"rule", parse_rule}, {"limit", limit}, {"pin", pin}, {"clock", token_clock}, {"token", token}, {"device", device}, {"seed", seed},
};

#define STATEMENTS (sizeof statements / sizeof *statements)

int lang_statement(const char *word)
{
	for (size_t i = 0; i < STATEMENTS; i++)
		if (strcmp(statements[i].word, word) == 0)
			return 1;
	return 0;
}

static int statement(struct line *l, struct item *it)
{
	const char *w = l->words[l->at++];
	for (size_t i = 0; i < STATEMENTS; i++)
		if (strcmp(statements[i].word, w) == 0) {
			if (!statements[i].parse(l, it))
				return 0;
			if (l->at < l->n)
				return fail(l, "\"%s\" is too much here: the statement was complete before it", l->words[l->at]);
			return 1;
		}
	return fail(l, "unknown statement \"%s\": write one of rule, limit, pin, clock, token, device, seed", w);
}

static int out_of_memory(struct line *l) { return fail(l, "out of memory"); }

static int add_line(struct line *l, struct items *out)
{
	if (l->n == 0)
		return 1;
	struct item *it = item_new();
	if (it == NULL)
		return out_of_memory(l);
	if (!statement(l, it)) {
		item_free(it);
		return 0;
	}
	it->text = canonical(it);
	struct item **more = it->text ? realloc(out->at, (out->n + 1) * sizeof *more) : NULL;
	if (more == NULL) {
		item_free(it);
		return out_of_memory(l);
	}
	out->at = more;
	for (size_t i = 0; i < out->n; i++)
		if (strcmp(out->at[i]->id, it->id) == 0) {
			int is_rule = it->kind == RULE;
			char id[ID_MAX + 1];
			strcpy(id, it->id);
			item_free(it);
			return is_rule || out->at[i]->kind == RULE
				? fail(l, "there is an item \"%s\" above already: write another id", id)
				: fail(l, "\"%s\" is said above already: say it once", id);
		}
	if (out->n == ITEMS_MAX) {
		item_free(it);
		return fail(l, "there are more than %d statements", ITEMS_MAX);
	}
	out->at[out->n++] = it;
	return 1;
}

int lang_parse(const char *text, size_t len, struct items *out, struct lang_error *e)
{
	struct line l = {.e = e};
	*out = (struct items){0};
	*e = (struct lang_error){0};
	while (len > 0) {
		const char *end = memchr(text, '\n', len);
		size_t n = end ? (size_t)(end - text) : len;
		e->line++;
		if (!split(&l, text, n) || !add_line(&l, out)) {
			items_free(out);
			return 0;
		}
		text += n, len -= n;
		if (end)
			text++, len--;
	}
	return 1;
}

const char *lang_error_text(const struct lang_error *e, char *buffer, size_t size)
{
	if (e->line)
		snprintf(buffer, size, "line %u: %s", e->line, e->text);
	else
		snprintf(buffer, size, "%s", e->text);
	return buffer;
}

int lang_effect(const char *text, struct effect *out, struct lang_error *e)
{
	struct line l = {.e = e};
	*e = (struct lang_error){.line = 1};
	if (!split(&l, text, strlen(text)) || !parse_effect(&l, out))
		return 0;
	if (l.at < l.n)
		return fail(&l, "\"%s\" is too much here", l.words[l.at]);
	return 1;
}
