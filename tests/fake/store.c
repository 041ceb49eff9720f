/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fake/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "store/hot.h"

struct cs_store {
	int guests_fd;
};

struct cs_template {
	struct cs_view view[CS_PART_MAX];
	struct cs_page_range hot[CS_HOT_KINDS];
};

struct cs_store *cs_fake_store(int dirfd)
{
	struct cs_store *store = calloc(1, sizeof(*store));

	if (store) {
		mkdirat(dirfd, "guests", 0711);
		store->guests_fd = openat(dirfd, "guests", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	return store;
}

int cs_store_guests_fd(const struct cs_store *store)
{
	return store->guests_fd;
}

/* A folder: nothing is under it. */
int cs_store_open_under(const struct cs_store *store, int *ret, struct cs_err *err)
{
	return cs_fail(err, ENOENT, "no image");
}

struct cs_store *cs_store_free(struct cs_store *store)
{
	if (store)
		cs_fd_closep(&store->guests_fd);
	free(store);
	return NULL;
}

struct cs_template *cs_fake_template(void)
{
	return calloc(1, sizeof(struct cs_template));
}

void cs_fake_template_part(struct cs_template *t, enum cs_part part, int fd, uint64_t bytes)
{
	t->view[part] = (struct cs_view){ .fd = fd, .bytes = bytes };
}

void cs_fake_template_hot(struct cs_template *t, uint32_t first, uint32_t pages, uint32_t more)
{
	t->hot[CS_HOT_WAKE] = (struct cs_page_range){ first, pages };
	t->hot[CS_HOT_EXEC] = (struct cs_page_range){ first + pages, more };
	t->hot[CS_HOT_WAKE_SEEN] = (struct cs_page_range){ first, pages + 1 };
}

int cs_hot_get(const struct cs_store *store, const struct cs_template *t, struct cs_hot *ret)
{
	*ret = (struct cs_hot){ 0 };
	for (size_t kind = 0; kind < CS_HOT_KINDS; kind++) {
		struct cs_hot_list *list = &ret->list[kind];

		list->n = t->hot[kind].pages > 0;
		list->pages = t->hot[kind].pages;
		list->range = calloc(1, sizeof(list->range[0]));
		if (!list->range)
			return -ENOMEM;
		list->range[0] = t->hot[kind];
	}
	return 0;
}

void cs_hot_clear(struct cs_hot *hot)
{
	for (size_t kind = 0; kind < CS_HOT_KINDS; kind++)
		free(hot->list[kind].range);
	*hot = (struct cs_hot){ 0 };
}

int cs_template_view(const struct cs_template *t, enum cs_part part, struct cs_view *ret,
		     struct cs_err *err)
{
	if (!t->view[part].bytes)
		return cs_fail(err, ENOENT, "template 'debian': has no such part");
	*ret = t->view[part];
	return 0;
}

int cs_template_check_present(struct cs_store *store, const struct cs_template *t,
			      struct cs_err *err)
{
	return 0;
}

const char *cs_template_name(const struct cs_template *t)
{
	return "debian";
}

const char *cs_template_version(const struct cs_template *t)
{
	return "1";
}

const char *cs_template_cmdline(const struct cs_template *t)
{
	return "quiet";
}

bool cs_template_stock_kernel(const struct cs_template *t)
{
	return true;
}

struct cs_template *cs_template_free(struct cs_template *t)
{
	free(t);
	return NULL;
}
