/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All templates of a store. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
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
	struct dirent *name;
	struct cs_template *t; /* NULL: see (broken) */
	struct cs_err broken;
};

struct walk {
	struct cs_store *store;
	bool quarantine; /* is any version in it? */
	struct look *look;
	size_t n;
	atomic_size_t next; /* nobody has taken it so far */
};

static void *look_on(void *arg)
{
	struct walk *walk = arg;
	size_t i;

	while ((i = atomic_fetch_add(&walk->next, 1)) < walk->n) {
		struct look *look = &walk->look[i];

		cs_template_look(walk->store, look->name->d_name, walk->quarantine, &look->t,
				 &look->broken);
	}
	return NULL;
}

/* With the help of as many threads as are worth it and can be had. */
static void look_at_all(struct walk *walk)
{
	const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	size_t helpers = 0, most = walk->n / SHARE;
	pthread_t helper[THREADS_MAX];

	if (most > THREADS_MAX)
		most = THREADS_MAX;
	if (cpus > 0 && most > (size_t)cpus)
		most = (size_t)cpus;
	while (helpers + 1 < most && pthread_create(&helper[helpers], NULL, look_on, walk) == 0)
		helpers++;
	look_on(walk);
	while (helpers)
		pthread_join(helper[--helpers], NULL);
}

int cs_template_each(struct cs_store *store, cs_template_fn fn, void *arg, struct cs_err *err)
{
	struct walk walk = { .store = store, .quarantine = cs_quarantine_any(store) };
	struct dirent **names;
	const int n = scan(store, &names, err);
	int r = 0;

	if (n < 0)
		return n;
	walk.n = (size_t)n;
	walk.look = calloc(walk.n ? walk.n : 1, sizeof(*walk.look));
	for (size_t i = 0; i < walk.n && walk.look; i++)
		walk.look[i].name = names[i];
	if (walk.look)
		look_at_all(&walk);
	else
		r = cs_fail_errno(err, ENOMEM, "cannot list the templates");

	for (size_t i = 0; i < walk.n; i++) {
		struct look *look = walk.look ? &walk.look[i] : NULL;
		const char *name = names[i]->d_name;

		/* It may be gone since it was listed. */
		if (r == 0 && (look->t || look->broken.code != ENOENT ||
			       !cs_missing_at(cs_store_templates_fd(store), name)))
			r = fn(name, look->t, look->t ? NULL : &look->broken, arg);
		if (look)
			cs_template_free(look->t);
		free(names[i]);
	}
	free(walk.look);
	free(names);
	return r;
}
