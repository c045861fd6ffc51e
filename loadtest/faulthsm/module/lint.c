/*
 * faulthsm-lint checks control files with the module's own parser: exit status 0 when all are good, 1 when one
 * is not, 2 when one cannot be read. For tests, --frames reads texts from standard input, each after its length in
 * bytes as 4 bytes, least first, and answers each in the same manner; --sample draws times in nanoseconds from the
 * first effect of a rule.
 */
#include "faulthsm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(const char *name)
{
	static char text[1 << 20];
	struct items items;
	struct lang_error e;
	FILE *f = strcmp(name, "-") == 0 ? stdin : fopen(name, "re");
	if (f == NULL) {
		fprintf(stderr, "%s: %s\n", name, strerror(errno));
		return 2;
	}
	size_t n = fread(text, 1, sizeof text, f);
	if (f != stdin)
		fclose(f);
	if (!lang_parse(text, n, &items, &e)) {
		fprintf(stderr, "%s:%u: %s\n", name, e.line, e.text);
		return 1;
	}
	for (size_t i = 0; i < items.n; i++)
		printf("%s\n", items.at[i]->text);
	items_free(&items);
	return 0;
}

static int put(const char *text, size_t n)
{
	unsigned char head[4] = {n & 0xFF, n >> 8 & 0xFF, n >> 16 & 0xFF, n >> 24 & 0xFF};
	return fwrite(head, 1, 4, stdout) == 4 && fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0;
}

/* frames answers "error LINE TEXT", or "ok" and the statements in their canonical form. */
static int frames(void)
{
	unsigned char head[4];
	while (fread(head, 1, 4, stdin) == 4) {
		size_t n = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24, size = 0;
		/* Exactly as long as the text, so that a sanitizer sees a step over its end. */
		char *text = n <= 1 << 20 ? malloc(n ? n : 1) : NULL, *answer = NULL;
		struct items items;
		struct lang_error e;
		if (text == NULL || fread(text, 1, n, stdin) != n)
			return 2;
		FILE *out = open_memstream(&answer, &size);
		if (out == NULL)
			return 2;
		if (lang_parse(text, n, &items, &e)) {
			fprintf(out, "ok\n");
			for (size_t i = 0; i < items.n; i++)
				fprintf(out, "%s\n", items.at[i]->text);
			items_free(&items);
		} else {
			fprintf(out, "error %u %s", e.line, e.text);
		}
		fclose(out);
		int good = put(answer, size);
		free(text);
		free(answer);
		if (!good)
			return 2;
	}
	return 0;
}

static int sample(const char *rule, const char *seed, const char *count)
{
	struct items items;
	struct lang_error e;
	if (!lang_parse(rule, strlen(rule), &items, &e) || items.n != 1) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	for (uint64_t i = 0; i < strtoull(count, NULL, 10); i++)
		printf("%.0f\n", dist_sample(&items.at[0]->effects[0].dist, chance(strtoull(seed, NULL, 10), items.at[0], i)));
	items_free(&items);
	return 0;
}

int main(int argc, char **argv)
{
	int worst = 0;
	if (argc == 2 && strcmp(argv[1], "--frames") == 0)
		return frames();
	if (argc == 5 && strcmp(argv[1], "--sample") == 0)
		return sample(argv[2], argv[3], argv[4]);
	if (argc < 2) {
		fprintf(stderr, "usage: faulthsm-lint FILE...   (- is standard input)\n");
		return 2;
	}
	for (int i = 1; i < argc; i++) {
		int r = check(argv[i]);
		worst = r > worst ? r : worst;
	}
	return worst;
}
