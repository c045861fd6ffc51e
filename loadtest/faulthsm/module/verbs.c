/*
 * The verbs of the socket. An answer is any number of lines that begin with a space, and then one that is
 * "ok" or begins with "error: ". Statements of the control language are verbs too.
 */
#include "faulthsm.h"
#include "names.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_MAX (1 << 20)

static void ok(FILE *out) { fprintf(out, "ok\n"); }

static void wrong(FILE *out, const struct lang_error *e)
{
	char text[512];
	fprintf(out, "error: %s\n", e->line > 1 ? lang_error_text(e, text, sizeof text) : e->text);
}

static void show_status(FILE *out)
{
	struct control_status s;
	struct plan *p = plan_hold();
	char text[512];
	int waiting = 0;
	uint64_t altered = 0;
	control_status_get(&s);
	for (size_t i = 0; p && i < p->n; i++)
		waiting += atomic_load(&p->at[i]->waiting);
	for (int i = 0; i < FN_COUNT; i++)
		altered += atomic_load(&counters[i].altered);
	fprintf(out, " pid %ld\n module %s\n", (long)getpid(), settings.module);
	fprintf(out, " initialized %s\n", atomic_load(&initialized) ? "yes" : "no");
	fprintf(out, " control-file %s\n control-path %s\n", s.file, settings.control ? settings.control : "-");
	fprintf(out, " control-hash %016llx\n control-loads %llu\n", (unsigned long long)s.hash, (unsigned long long)s.loads);
	if (strcmp(s.file, "error") == 0)
		fprintf(out, " control-error %s\n", lang_error_text(&s.error, text, sizeof text));
	fprintf(out, " state-path %s\n socket %s\n", settings.state ? settings.state : "-", socket_where());
	fprintf(out, " statements %zu\n", p ? p->n : 0);
	fprintf(out, " token %s\n", token_away(p) == CKR_OK ? "present" : "absent");
	fprintf(out, " sessions %llu\n session-objects %llu\n", (unsigned long long)track_sessions(), (unsigned long long)track_objects());
	fprintf(out, " object-epoch %llu\n", (unsigned long long)atomic_load(&object_epoch));
	fprintf(out, " waiting %d\n altered %llu\n leaked %llu\n", waiting, (unsigned long long)altered, (unsigned long long)atomic_load(&leaked));
	plan_drop(p);
	ok(out);
}

static void show_list(FILE *out)
{
	struct plan *p = plan_hold();
	for (size_t i = 0; p && i < p->n; i++) {
		struct item *it = p->at[i];
		fprintf(out, " %s from=%s seen=%llu fired=%llu waiting=%d %s\n", it->id, it->origin == FROM_FILE ? "file" : "socket",
		        (unsigned long long)atomic_load(&it->seen), (unsigned long long)atomic_load(&it->fired), atomic_load(&it->waiting), it->text);
	}
	plan_drop(p);
	ok(out);
}

static void show_stats(FILE *out)
{
	for (int i = 0; i < FN_COUNT; i++) {
		uint64_t calls = atomic_load(&counters[i].calls), returned = atomic_load(&counters[i].returned);
		if (calls)
			fprintf(out, " %s calls=%llu inside=%llu failed=%llu altered=%llu\n", name_function((enum fn)i), (unsigned long long)calls,
			        (unsigned long long)(calls > returned ? calls - returned : 0), (unsigned long long)atomic_load(&counters[i].failed),
			        (unsigned long long)atomic_load(&counters[i].altered));
	}
	ok(out);
}

/* reset_stats sets what has returned to nothing and what is inside to the calls. */
static void reset_stats(FILE *out)
{
	for (int i = 0; i < FN_COUNT; i++) {
		uint64_t returned = atomic_exchange(&counters[i].returned, 0);
		atomic_fetch_sub(&counters[i].calls, returned);
		atomic_store(&counters[i].failed, 0);
		atomic_store(&counters[i].altered, 0);
	}
	ok(out);
}

static void show_help(FILE *out)
{
	fputs(" Statements: rule, limit, pin, clock, token, device, seed (see the language in README.md)\n"
	      " begin … end        several statements, all or none\n"
	      " remove ID          take a statement out of force\n"
	      " clear              take all of them out of force, the control file's too until it changes\n"
	      " release ID|all     let calls go on that hang in a rule\n"
	      " list               statements in force, with their counters\n"
	      " status             what this process is and how it is\n"
	      " stats [reset]      calls per function\n"
	      " log [N]            the last N things that were done (100)\n"
	      " now EFFECT         logout [code CODE], close-sessions, forget-objects, remove-token [for TIME], leak BYTES or crash, at once\n"
	      " return-token       after now remove-token or a rule that removed it\n"
	      " reset-pins         forget wrong PINs, as a security officer does\n"
	      " reload             read the control file now\n"
	      " help               this\n", out);
	ok(out);
}

static void add(FILE *out, const char *text, size_t len)
{
	struct lang_error e;
	if (plan_add(text, len, &e))
		ok(out);
	else
		wrong(out, &e);
}

static void batch_line(struct client *cl, const char *line, FILE *out)
{
	if (strcmp(line, "end") == 0) {
		cl->batching = 0;
		add(out, cl->batch ? cl->batch : "", cl->batch_len);
		free(cl->batch);
		cl->batch = NULL, cl->batch_len = 0;
		return;
	}
	size_t n = strlen(line);
	char *more = cl->batch_len + n + 1 <= BATCH_MAX ? realloc(cl->batch, cl->batch_len + n + 1) : NULL;
	if (more == NULL) {
		/* Kept as a line that cannot be read, so that "end" refuses all of it. */
		cl->batch_len = 0;
		more = realloc(cl->batch, 64);
		if (more == NULL)
			return;
		n = (size_t)snprintf(more, 64, "batch-of-more-than-1MiB");
		cl->batch = more, cl->batch_len = n;
		return;
	}
	memcpy(more + cl->batch_len, line, n);
	more[cl->batch_len + n] = '\n';
	cl->batch = more, cl->batch_len += n + 1;
}

static void now(FILE *out, const char *text)
{
	struct lang_error e;
	struct effect f;
	if (!lang_effect(text, &f, &e)) {
		wrong(out, &e);
		return;
	}
	const char *why = engine_now(&f);
	if (why)
		fprintf(out, "error: %s\n", why);
	else
		ok(out);
}

static void do_remove(FILE *out, const char *id)
{
	if (*id == 0)
		fprintf(out, "error: write remove and an id; list shows them\n");
	else if (plan_remove(id) == 0)
		fprintf(out, "error: there is no statement \"%.64s\"; list shows the ids\n", id);
	else
		ok(out);
}

static void do_release(FILE *out, const char *id)
{
	if (*id == 0)
		fprintf(out, "error: write release and an id, or release all\n");
	else if (plan_release(strcmp(id, "all") == 0 ? NULL : id) == 0 && strcmp(id, "all") != 0)
		fprintf(out, "error: there is no statement \"%.64s\"; list shows the ids\n", id);
	else
		ok(out);
}

static void do_log(FILE *out, const char *count)
{
	char *end;
	unsigned long n = *count ? strtoul(count, &end, 10) : 100;
	if (*count && (*end || *count == '-' || n == 0)) {
		fprintf(out, "error: \"%.32s\" is no number of entries: write log 20\n", count);
		return;
	}
	log_print(out, n);
	ok(out);
}

void verb(struct client *cl, char *line, FILE *out)
{
	size_t len = strlen(line);
	if (len > 0 && line[len - 1] == '\r')
		line[--len] = 0;
	if (cl->too_long) {
		if (cl->batching)
			batch_line(cl, "line-too-long", out);
		else
			fprintf(out, "error: the line is longer than %d characters\n", LINE_MAX_LEN);
		return;
	}
	if (cl->batching) {
		batch_line(cl, line, out);
		return;
	}
	char word[32] = "";
	size_t n = strcspn(line, " \t");
	snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), line);
	char *rest = line + n + strspn(line + n, " \t");
	struct lang_error e;

	static const struct { const char *word; void (*plain)(FILE *); } plain[] = {
		{"help", show_help}, {"status", show_status}, {"list", show_list},
	};
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
		if (strcmp(line, plain[i].word) == 0) {
			plain[i].plain(out);
			return;
		}
	if (lang_statement(word)) {
		add(out, line, len);
	} else if (strcmp(line, "begin") == 0) {
		cl->batching = 1; /* nothing is answered until "end" */
	} else if (strcmp(line, "clear") == 0) {
		plan_clear();
		ok(out);
	} else if (strcmp(line, "stats") == 0) {
		show_stats(out);
	} else if (strcmp(line, "stats reset") == 0) {
		reset_stats(out);
	} else if (strcmp(line, "return-token") == 0) {
		token_return();
		ok(out);
	} else if (strcmp(line, "reset-pins") == 0) {
		pin_reset_all();
		ok(out);
	} else if (strcmp(line, "reload") == 0) {
		if (control_reload(&e))
			ok(out);
		else
			wrong(out, &e);
	} else if (strcmp(word, "remove") == 0) {
		do_remove(out, rest);
	} else if (strcmp(word, "release") == 0) {
		do_release(out, rest);
	} else if (strcmp(word, "log") == 0) {
		do_log(out, rest);
	} else if (strcmp(word, "now") == 0) {
		now(out, rest);
	} else {
		fprintf(out, "error: unknown verb \"%s\": write help\n", word);
	}
}
