/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An importer's surroundings: a tree, an image, and ways to look at what came in. */
#pragma once

#include "store/base/num.h"
#include "store/import.h"
#include "tests/fake/tar.h"
#include "tests/unit/scratch.h"

struct fixture {
	void *scratch_state;
	struct scratch *scratch;
	int fd;
	struct cs_import import;
	struct cs_fake_tar tar;
	struct cs_err err;
};

static inline int fixture_sized(void **state, uint64_t max_bytes)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	scratch_make(&f->scratch_state);
	f->scratch = f->scratch_state;
	f->fd = openat(f->scratch->fd, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(cs_tree_open(&f->import.tree, NULL), 0);
	assert_int_equal(cs_image_open(f->fd, 4096, max_bytes, &f->import.image, NULL), 0);
	*state = f;
	return 0;
}

static inline int fixture_make(void **state)
{
	return fixture_sized(state, 64 * CS_MIB);
}

static inline int fixture_remove(void **state)
{
	struct fixture *f = *state;

	cs_image_free(f->import.image);
	cs_tree_free(f->import.tree);
	free(f->tar.data);
	close(f->fd);
	scratch_remove(&f->scratch_state);
	free(f);
	return 0;
}

static inline const char *fixture_path(const struct fixture *f, const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", f->scratch->path, name);
	return path;
}

static inline struct cs_node *fixture_find(struct fixture *f, const char *path)
{
	struct cs_node *node = cs_tree_find(f->import.tree, path);

	if (!node)
		fail_msg("'%s' did not come in", path);
	return node;
}

/* The regular file at (path) is (bytes) long and has (text) at (offset). */
static inline void fixture_expect(struct fixture *f, const char *path, uint64_t bytes,
				  uint64_t offset, const char *text)
{
	struct cs_node *node = fixture_find(f, path);
	char got[256] = "";

	assert_true(S_ISREG(node->attr.mode));
	assert_int_equal(node->bytes, bytes);
	assert_int_equal(cs_image_read(f->import.image, node, offset, got, strlen(text), NULL), 0);
	assert_string_equal(got, text);
}

static inline const struct cs_xattr *fixture_xattr(struct fixture *f, const char *path,
						   const char *name)
{
	const struct cs_xattr *xattr;

	for (xattr = fixture_find(f, path)->xattrs; xattr; xattr = xattr->next) {
		if (!strcmp(xattr->name, name))
			return xattr;
	}
	fail_msg("'%s' has no '%s'", path, name);
	return NULL;
}
