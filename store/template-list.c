/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All templates of a store. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/quarantine.h"
#include "store/store.h"
#include "store/template-private.h"

/* A thread costs as much as looking at a few templates, and most of what is looked at is parsed: so
 * many for each thread, and no more of them than that. */
#define SHARE       64
#define THREADS_MAX 4

/* What is looked at goes on in batches, and so many of them ahead: a template is 6 KiB, and to
 * touch new memory for each of a thousand takes longer than to parse it. */
#define BATCH 16
#define AHEAD ((size_t)2 * THREADS_MAX)

static int by_version(const struct dirent **a, const struct dirent **b)
{
	return strverscmp((*a)->d_name, (*b)->d_name);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* Their names in order; each is the caller's to free(), and so is the array. */
static int scan(struct cs_store *store, struct dirent ***ret, struct cs_err *err)
{
	int n = scandirat(cs_store_templates_fd(store), ".", ret, is_visible, by_version);

	return n < 0 ? cs_fail_errno(err, errno, "cannot list the templates") : n;
}

int cs_template_names(struct cs_store *store, int (*fn)(const char *name, void *arg), void *arg,
		      struct cs_err *err)
{
	struct dirent **names;
	const int n = scan(store, &names, err);
	int r = 0;

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		if (r == 0)
			r = fn(names[i]->d_name, arg);
		free(names[i]);
	}
	free(names);
	return r;
}

struct look {
	struct cs_template *t; /* NULL: see (broken) */
	struct cs_err broken;
};

struct walk {
	struct cs_store *store;
	bool quarantine; /* is any version in it? */
	struct dirent **name;
	size_t n, batches;
	struct look (*look)[BATCH]; /* of batch i: [i % AHEAD] */
	pthread_t helper[THREADS_MAX];
	size_t helpers;
	/* below: under the lock */
	pthread_mutex_t lock;
	pthread_cond_t moved;
	size_t next,
		told; /* batches: nobody has taken it so far; it and its place are free again */
	bool looked[AHEAD], quit;
};

static size_t batch_end(const struct walk *walk, size_t batch)
{
	return (batch + 1) * BATCH < walk->n ? (batch + 1) * BATCH : walk->n;
}

static void look_at(const struct walk *walk, size_t batch)
{
	struct look *look = walk->look[batch % AHEAD];

	for (size_t i = batch * BATCH; i < batch_end(walk, batch); i++, look++) {
		look->t = NULL;
		look->broken.code = 0;
		cs_template_look(walk->store, walk->name[i]->d_name, walk->quarantine, &look->t,
				 &look->broken);
	}
}

/* Under the lock: take the next batch if there is a place for it, and look at it without. */
static bool take_batch(struct walk *walk)
{
	const size_t batch = walk->next;

	if (walk->quit || batch == walk->batches || batch - walk->told >= AHEAD)
		return false;
	walk->next++;
	pthread_mutex_unlock(&walk->lock);
	look_at(walk, batch);
	pthread_mutex_lock(&walk->lock);
	walk->looked[batch % AHEAD] = true;
	pthread_cond_broadcast(&walk->moved);
	return true;
}

static void *help(void *arg)
{
	struct walk *walk = arg;

	pthread_mutex_lock(&walk->lock);
	while (!walk->quit && walk->next < walk->batches) {
		if (!take_batch(walk))
			pthread_cond_wait(&walk->moved, &walk->lock);
	}
	pthread_mutex_unlock(&walk->lock);
	return NULL;
}

/* As many threads as are worth it and can be had. */
static void start_helpers(struct walk *walk)
{
	const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	size_t most = walk->n / SHARE;

	if (most > THREADS_MAX)
		most = THREADS_MAX;
	if (cpus > 0 && most > (size_t)cpus)
		most = (size_t)cpus;
	while (walk->helpers + 1 < most &&
	       pthread_create(&walk->helper[walk->helpers], NULL, help, walk) == 0)
		walk->helpers++;
}

/* When the batch that is told next has been looked at, by whomever. */
static void wait_for(struct walk *walk, size_t batch)
{
	pthread_mutex_lock(&walk->lock);
	while (!walk->looked[batch % AHEAD]) {
		if (!take_batch(walk))
			pthread_cond_wait(&walk->moved, &walk->lock);
	}
	pthread_mutex_unlock(&walk->lock);
}

/* Its place is another's. */
static void forget(struct walk *walk, size_t batch)
{
	pthread_mutex_lock(&walk->lock);
	walk->looked[batch % AHEAD] = false;
	walk->told = batch + 1;
	pthread_cond_broadcast(&walk->moved);
	pthread_mutex_unlock(&walk->lock);
}

static void stop_helpers(struct walk *walk)
{
	pthread_mutex_lock(&walk->lock);
	walk->quit = true;
	pthread_cond_broadcast(&walk->moved);
	pthread_mutex_unlock(&walk->lock);
	while (walk->helpers)
		pthread_join(walk->helper[--walk->helpers], NULL);
}

/* In order; (r) is what was told of those before. */
static int tell(struct walk *walk, size_t batch, cs_template_fn fn, void *arg, int r)
{
	struct look *look = walk->look[batch % AHEAD];

	for (size_t i = batch * BATCH; i < batch_end(walk, batch); i++, look++) {
		const char *name = walk->name[i]->d_name;

		/* It may be gone since it was listed. */
		if (r == 0 && (look->t || look->broken.code != ENOENT ||
			       !cs_missing_at(cs_store_templates_fd(walk->store), name)))
			r = fn(name, look->t, look->t ? NULL : &look->broken, arg);
		look->t = cs_template_free(look->t);
	}
	return r;
}

static int walk_all(struct walk *walk, cs_template_fn fn, void *arg)
{
	int r = 0;

	pthread_mutex_init(&walk->lock, NULL);
	pthread_cond_init(&walk->moved, NULL);
	start_helpers(walk);
	for (size_t batch = 0; batch < walk->batches && r == 0; batch++) {
		wait_for(walk, batch);
		r = tell(walk, batch, fn, arg, r);
		forget(walk, batch);
	}
	stop_helpers(walk);
	/* what was looked at ahead of one that ended it */
	for (size_t batch = walk->told; batch < walk->next; batch++)
		tell(walk, batch, fn, arg, -ECANCELED);
	pthread_cond_destroy(&walk->moved);
	pthread_mutex_destroy(&walk->lock);
	return r;
}

int cs_template_each(struct cs_store *store, cs_template_fn fn, void *arg, struct cs_err *err)
{
	struct walk walk = { .store = store, .quarantine = cs_quarantine_any(store) };
	const int n = scan(store, &walk.name, err);
	int r;

	if (n < 0)
		return n;
	walk.n = (size_t)n;
	walk.batches = (walk.n + BATCH - 1) / BATCH;
	walk.look = calloc(AHEAD, sizeof(*walk.look));
	r = walk.look ? walk_all(&walk, fn, arg)
		      : cs_fail_errno(err, ENOMEM, "cannot list the templates");
	for (size_t i = 0; i < walk.n; i++)
		free(walk.name[i]);
	free(walk.look);
	free(walk.name);
	return r;
}
