/* The making and freeing of items. */
#include "lang.h"

#include <stdlib.h>
#include <time.h>

void item_free(struct item *it)
{
	if (it == NULL)
		return;
	pthread_mutex_destroy(&it->mu);
	pthread_cond_destroy(&it->changed);
	if (it->owns_servers)
		free(it->free_at);
	free(it->text);
	free(it);
}

void items_free(struct items *l)
{
	for (size_t i = 0; i < l->n; i++)
		item_free(l->at[i]);
	free(l->at);
	*l = (struct items){0};
}

struct item *item_new(void)
{
	struct item *it = calloc(1, sizeof *it);
	if (it == NULL)
		return NULL;
	pthread_condattr_t a;
	pthread_condattr_init(&a);
	pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
	pthread_mutex_init(&it->mu, NULL);
	pthread_cond_init(&it->changed, &a);
	pthread_condattr_destroy(&a);
	return it;
}
