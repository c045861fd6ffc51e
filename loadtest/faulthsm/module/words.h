/* The words of one line of the control language, and what single words mean: numbers, times, codes. */
#ifndef FAULTHSM_WORDS_H
#define FAULTHSM_WORDS_H

#include "lang.h"

#define WORDS_MAX 256

/* The words of one line, and how far they have been read. */
struct line {
	char buffer[LINE_MAX_LEN + 1];
	char *words[WORDS_MAX];
	int n, at;
	struct lang_error *e;
};

/* fail says what is wrong and what to write instead, and returns 0, as all that follow do when they fail. */
int fail(struct line *l, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* split makes words of a text without its line end. */
int split(struct line *l, const char *text, size_t len);

/* peek is the word to come, or NULL; is takes it if it is the given one; next takes it, what says what it should have been. */
const char *peek(struct line *l);
int is(struct line *l, const char *word);
const char *next(struct line *l, const char *what);

int whole(struct line *l, const char *what, uint64_t least, uint64_t most, uint64_t *out);
int fraction(struct line *l, const char *what, double most, double *out);
int duration(struct line *l, const char *what, int64_t *out);
int code(struct line *l, CK_RV *out);
int spread(struct line *l, struct dist *d);
int bytes(struct line *l, uint64_t *out);

/* rule.c: what follows "rule", and one effect. */
int parse_rule(struct line *l, struct item *it);
int parse_effect(struct line *l, struct effect *f);

/* Times in the other direction. */
void time_text(int64_t ns, char *out, size_t size);
void spread_text(const struct dist *d, char *out, size_t size);

#endif
