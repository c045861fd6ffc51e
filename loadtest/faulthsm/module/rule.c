/* Rules: functions, conditions and effects. */
#include "words.h"
#include "names.h"

#include <string.h>

static const char effects_list[] =
	"call, return, sleep, hang, crash, logout, close-session, close-sessions, forget-objects, remove-token, flip, shorten, leak, serve, nothing";

int parse_effect(struct line *l, struct effect *f)
{
	memset(f, 0, sizeof *f);
	const char *w = next(l, "an effect");
	if (w == NULL)
		return 0;
	static const struct { const char *word; enum effect_kind kind; } plain[] = {
		{"call", CALL}, {"return", RETURN}, {"sleep", SLEEP}, {"hang", HANG}, {"crash", CRASH}, {"logout", LOGOUT},
		{"close-session", CLOSE_SESSION}, {"close-sessions", CLOSE_SESSIONS}, {"forget-objects", FORGET_OBJECTS},
		{"remove-token", REMOVE_TOKEN}, {"flip", FLIP}, {"shorten", SHORTEN}, {"leak", LEAK}, {"serve", SERVE}, {"nothing", NOTHING},
	};
	size_t i = 0;
	while (i < sizeof plain / sizeof *plain && strcmp(plain[i].word, w) != 0)
		i++;
	if (i == sizeof plain / sizeof *plain)
		return fail(l, "unknown effect \"%s\": write one of %s", w, effects_list);
	f->kind = plain[i].kind;
	switch (f->kind) {
	case RETURN:
		if (!code(l, &f->code))
			return 0;
		f->leave_active = is(l, "leave-active");
		return 1;
	case SLEEP:
		return spread(l, &f->dist);
	case LOGOUT:
		f->has_code = is(l, "code");
		return !f->has_code || code(l, &f->code);
	case REMOVE_TOKEN:
		return !is(l, "for") || duration(l, "how long the token is away", &f->time);
	case FLIP:
		f->n = UINT64_MAX;
		return !is(l, "bit") || whole(l, "the number of a bit", 0, 1 << 30, &f->n);
	case SHORTEN:
		return bytes(l, &f->n);
	case LEAK:
		return bytes(l, &f->n);
	case SERVE:
		if (!whole(l, "how many calls are served at once", 1, SERVERS_MAX, &f->n) || !spread(l, &f->dist))
			return 0;
		f->has_code = is(l, "refuse");
		if (!f->has_code)
			return 1;
		if (!code(l, &f->code))
			return 0;
		if (!is(l, "beyond"))
			return fail(l, "after \"refuse CODE\" write \"beyond\" and the longest time a call may wait, as beyond 1s");
		return duration(l, "the longest time a call may wait", &f->time);
	default:
		return 1;
	}
}

static int identifier(struct line *l, char *out)
{
	const char *w = next(l, "the rule's id");
	if (w == NULL)
		return 0;
	size_t n = strlen(w);
	int good = n <= ID_MAX && ((*w >= 'a' && *w <= 'z') || (*w >= '0' && *w <= '9'));
	for (const char *p = w; *p && good; p++)
		good = (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || *p == '-' || *p == '_' || *p == '.';
	if (!good)
		return fail(l, "\"%.40s\" is no id: write up to %d of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit", w, ID_MAX);
	memcpy(out, w, n + 1);
	return 1;
}

int in_session(int f) { return f == FN_C_InitPIN || f == FN_C_SetPIN || (f >= FN_C_CloseSession && f != FN_C_CloseAllSessions && f <= FN_C_CancelFunction); }

int computes(int f)
{
	const char *n = name_function((enum fn)f);
	size_t len = strlen(n);
	return f >= FN_C_EncryptInit && f <= FN_C_GenerateRandom && f != FN_C_SeedRandom && strcmp(n + len - 4, "Init") != 0;
}

static int functions(struct line *l, struct item *it)
{
	char *w = (char *)next(l, "a function");
	if (w == NULL)
		return 0;
	if (strstr(w, ",,") || w[0] == ',' || w[strlen(w) - 1] == ',')
		return fail(l, "\"%s\" has a comma too many: write C_Sign,C_Encrypt without spaces", w);
	char *save = NULL;
	for (char *p = strtok_r(w, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
		enum fn f;
		if (value_function(p, &f)) {
			it->on[f] = 1;
			continue;
		}
		int any = strcmp(p, "any") == 0, session = strcmp(p, "session") == 0, crypto = strcmp(p, "crypto") == 0;
		if (!any && !session && !crypto) {
			const char *n = nearest(NAME_FUNCTION, p);
			if (n)
				return fail(l, "unknown function \"%s\": did you mean %s%s?", p, n[0] == 'C' && n[1] == '_' ? "" : "C_", n);
			return fail(l, "unknown function \"%s\": write a name as C_Sign, or any, session or crypto", p);
		}
		for (int i = 0; i < FN_COUNT; i++)
			if (any || (session && in_session(i)) || (crypto && computes(i)))
				it->on[i] = 1;
	}
	return 1;
}

static int wanted(struct line *l, const char *what, struct want *w)
{
	w->set = 1;
	return whole(l, what, 0, UINT64_MAX, &w->value);
}

static int mechanism(struct line *l, struct want *w)
{
	const char *name = next(l, "a mechanism");
	if (name == NULL)
		return 0;
	CK_ULONG m;
	w->set = 1;
	if (value_mechanism(name, &m)) {
		w->value = m;
		return 1;
	}
	if (*name >= '0' && *name <= '9') {
		l->at--;
		return whole(l, "the number of a mechanism", 0, UINT64_MAX, &w->value);
	}
	const char *n = nearest(NAME_MECHANISM, name);
	if (n)
		return fail(l, "unknown mechanism \"%s\": did you mean %s?", name, n);
	return fail(l, "unknown mechanism \"%s\": write a name as ECDSA or a number as 0x1041", name);
}

static const char conditions_list[] = "nth, every, skip, times, probability, from, lasts, session, key, slot, mechanism";

static int condition(struct line *l, struct item *it, const char *w)
{
	const uint64_t most = INT64_MAX;
	int twice = 0;
#define ONCE(field) (twice = (field) != 0)
	if (strcmp(w, "nth") == 0 && !ONCE(it->nth))
		return whole(l, "which call", 1, most, &it->nth);
	if (strcmp(w, "every") == 0 && !ONCE(it->every))
		return whole(l, "every how many calls", 1, most, &it->every);
	if (strcmp(w, "skip") == 0 && !ONCE(it->skip))
		return whole(l, "how many calls are left alone", 1, most, &it->skip);
	if (strcmp(w, "times") == 0 && !ONCE(it->times))
		return whole(l, "how many times", 1, most, &it->times);
	if (strcmp(w, "probability") == 0 && !ONCE(it->probability > 0))
		return fraction(l, "a probability", 1, &it->probability);
	if (strcmp(w, "from") == 0 && !ONCE(it->from))
		return duration(l, "when it begins", &it->from);
	if (strcmp(w, "lasts") == 0 && !ONCE(it->lasts))
		return duration(l, "how long it lasts", &it->lasts);
	if (strcmp(w, "session") == 0 && !ONCE(it->session.set))
		return wanted(l, "a session's handle", &it->session);
	if (strcmp(w, "key") == 0 && !ONCE(it->key.set))
		return wanted(l, "a key's handle", &it->key);
	if (strcmp(w, "slot") == 0 && !ONCE(it->slot.set))
		return wanted(l, "a slot's number", &it->slot);
	if (strcmp(w, "mechanism") == 0 && !ONCE(it->mechanism.set))
		return mechanism(l, &it->mechanism);
#undef ONCE
	if (twice)
		return fail(l, "\"%s\" is said twice", w);
	return fail(l, "unknown condition \"%s\": write one of %s, or \"do\" and an effect", w, conditions_list);
}

int parse_rule(struct line *l, struct item *it)
{
	it->kind = RULE;
	if (!identifier(l, it->id))
		return 0;
	if (!is(l, "on"))
		return fail(l, "after the id write \"on\" and functions, as rule %s on C_Sign do hang", it->id);
	if (!functions(l, it))
		return 0;
	while (!is(l, "do")) {
		const char *w = next(l, "\"do\" and an effect");
		if (w == NULL || !condition(l, it, w))
			return 0;
	}
	if (it->nth && (it->every || it->skip || it->times))
		return fail(l, "\"nth\" says which call it is: leave out every, skip and times");
	int ended = 0, served = 0;
	do {
		if (it->effect_count == EFFECTS_MAX)
			return fail(l, "a rule has at most %d effects: write several rules", EFFECTS_MAX);
		struct effect *f = &it->effects[it->effect_count];
		if (!parse_effect(l, f))
			return 0;
		if (ended)
			return fail(l, "nothing comes after \"return\" and \"crash\": put them last");
		it->effect_count++;
		ended = f->kind == RETURN || f->kind == CRASH;
		if (f->kind == CALL && it->calls++)
			return fail(l, "\"call\" is said twice: the token is called once");
		if (f->kind == SERVE && served++)
			return fail(l, "\"serve\" is said twice: write several rules");
	} while (is(l, "then"));
	return 1;
}
