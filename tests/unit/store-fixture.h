/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A store for a test: in a folder, or where we may mount, a Btrfs image of its own. */
#pragma once

#include "store/base/num.h"
#include "store/pool.h"
#include "store/store.h"
#include "store/subvol.h"
#include "store/template.h"
#include "tests/fake/kernel.h"
#include "tests/unit/scratch.h"

struct fixture {
	void *scratch_state;
	struct scratch *scratch;
	char root[300], folder[300];
	struct cs_store *store;
	struct cs_err err;
	bool image;
};

static inline int fixture_bare(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	scratch_make(&f->scratch_state);
	f->scratch = f->scratch_state;
	snprintf(f->root, sizeof(f->root), "%s/store", f->scratch->path);
	snprintf(f->folder, sizeof(f->folder), "%s/folder", f->scratch->path);
	*state = f;
	return 0;
}

static inline void fixture_open(struct fixture *f)
{
	if (cs_store_open(f->root, &f->store, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static inline int fixture_in_folder(void **state)
{
	struct cs_pool_spec spec = { 0 };
	struct fixture *f;

	fixture_bare(state);
	f = *state;
	spec.root = f->root;
	spec.path = f->folder;
	if (cs_pool_init(&spec, &f->err) < 0)
		fail_msg("%s", f->err.text);
	fixture_open(f);
	return 0;
}

/* NULL for a store where none can be: the test then skips. */
static inline int fixture_on_btrfs(void **state)
{
	struct cs_pool_spec spec = { .bytes = 512 * CS_MIB };
	struct fixture *f;

	fixture_bare(state);
	f = *state;
	spec.root = f->root;
	if (geteuid() || access("/dev/loop-control", F_OK) < 0)
		return 0;
	if (cs_pool_init(&spec, &f->err) < 0)
		fail_msg("%s", f->err.text);
	f->image = true;
	fixture_open(f);
	return 0;
}

static inline void fixture_need_btrfs(const struct fixture *f)
{
	if (!f->image) {
		print_message("skipped: needs root and loop devices\n");
		skip();
	}
}

static inline int fixture_remove(void **state)
{
	struct fixture *f = *state;

	cs_store_free(f->store);
	if (f->image)
		assert_int_equal(cs_pool_unmount(f->root, NULL), 0);
	/* what is sealed does not go by itself for those who are not root */
	assert_int_equal(cs_subvol_remove(f->scratch->fd, "folder", NULL), 0);
	scratch_remove(&f->scratch_state);
	free(f);
	return 0;
}

static inline const char *fixture_path(const struct fixture *f, const char *name)
{
	static char path[4][512];
	static unsigned turn;
	char *to = path[turn++ % 4];

	snprintf(to, sizeof(path[0]), "%s/%s", f->scratch->path, name);
	return to;
}

/* Half-made and half-removed things in templates/. */
static inline int fixture_dot_names(const struct fixture *f)
{
	int fd = openat(cs_store_templates_fd(f->store), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fdopendir(fd);
	struct dirent *entry;
	int n = -2;

	assert_non_null(dir);
	while ((entry = readdir(dir)))
		n += entry->d_name[0] == '.';
	closedir(dir);
	return n;
}
