/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tree in memory: paths stay inside it whatever they say. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "store/tree.h"

static int make(void **state)
{
	struct cs_tree *tree = NULL;

	assert_int_equal(cs_tree_open(&tree, NULL), 0);
	*state = tree;
	return 0;
}

static int unmake(void **state)
{
	cs_tree_free(*state);
	return 0;
}

static int add(struct cs_tree *tree, const char *path, mode_t mode, const char *target)
{
	const struct cs_attr attr = { .mode = mode };
	const struct cs_tree_item item = { .path = path, .target = target, .attr = &attr };
	struct cs_node *node = NULL;
	struct cs_err err = { 0 };
	int r;

	r = cs_tree_add(tree, &item, &node, &err);
	assert_true(r < 0 ? err.code == -r && err.text[0] : node != NULL);
	return r;
}

static int file(struct cs_tree *tree, const char *path)
{
	return add(tree, path, S_IFREG | 0644, NULL);
}

static int folder(struct cs_tree *tree, const char *path)
{
	return add(tree, path, S_IFDIR | 0700, NULL);
}

static int link_to(struct cs_tree *tree, const char *path, const char *target)
{
	return add(tree, path, S_IFLNK | 0777, target);
}

static void test_paths_are_the_same(void **state)
{
	struct cs_tree *tree = *state;

	assert_int_equal(file(tree, "./a//b/./c"), 0);
	assert_non_null(cs_tree_find(tree, "a/b/c"));
	assert_ptr_equal(cs_tree_find(tree, "/a/b/c"), cs_tree_find(tree, "a/b/../b/c"));
	/* ".." of the root is the root */
	assert_ptr_equal(cs_tree_find(tree, "../../../a/b/c"), cs_tree_find(tree, "a/b/c"));
	assert_ptr_equal(cs_tree_find(tree, "/"), cs_tree_root(tree));
	assert_ptr_equal(cs_tree_find(tree, ""), cs_tree_root(tree));
	assert_null(cs_tree_find(tree, "a/b/d"));
	assert_null(cs_tree_find(tree, "a/b/c/d"));
	assert_int_equal(cs_tree_count(tree), 4);
}

static void test_links_lead_inside(void **state)
{
	struct cs_tree *tree = *state;

	assert_int_equal(folder(tree, "usr/sbin"), 0);
	assert_int_equal(link_to(tree, "sbin", "usr/sbin"), 0);
	assert_int_equal(link_to(tree, "abs", "/usr/sbin"), 0);
	assert_int_equal(link_to(tree, "out", "../../../../usr"), 0);
	assert_int_equal(file(tree, "sbin/agent"), 0);
	assert_int_equal(file(tree, "abs/second"), 0);
	assert_int_equal(file(tree, "out/sbin/third"), 0);
	assert_non_null(cs_tree_find(tree, "usr/sbin/agent"));
	assert_non_null(cs_tree_find(tree, "usr/sbin/second"));
	assert_non_null(cs_tree_find(tree, "usr/sbin/third"));
	/* the link itself is still one */
	assert_true(S_ISDIR(cs_tree_find(tree, "sbin")->attr.mode));
	assert_int_equal(cs_tree_find(tree, "usr/sbin")->entry_count, 3);
}

/* A link whose target is missing gets it made, where it leads inside. */
static void test_missing_folders(void **state)
{
	struct cs_tree *tree = *state;

	assert_int_equal(link_to(tree, "sbin", "/usr/sbin"), 0);
	assert_int_equal(file(tree, "sbin/agent"), 0);
	assert_non_null(cs_tree_find(tree, "usr/sbin/agent"));
	assert_int_equal(cs_tree_find(tree, "usr")->attr.mode, S_IFDIR | 0755);
}

static void test_loops_end(void **state)
{
	struct cs_tree *tree = *state;

	assert_int_equal(link_to(tree, "a", "b"), 0);
	assert_int_equal(link_to(tree, "b", "a"), 0);
	assert_int_equal(link_to(tree, "self", "self/self/self"), 0);
	assert_int_equal(file(tree, "a/x"), -ELOOP);
	assert_int_equal(file(tree, "self/x"), -ELOOP);
	assert_null(cs_tree_find(tree, "a"));
	assert_null(cs_tree_find(tree, "self"));
	assert_null(cs_tree_find(tree, "a/b/c"));
	/* the last component is replaced, not followed */
	assert_int_equal(file(tree, "a"), 0);
	assert_true(S_ISREG(cs_tree_find(tree, "b")->attr.mode));
}

static void test_long_paths(void **state)
{
	struct cs_tree *tree = *state;
	char name[NAME_MAX + 2], path[PATH_MAX + 10], target[PATH_MAX];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(file(tree, name), -ENAMETOOLONG);
	name[NAME_MAX] = '\0';
	assert_int_equal(file(tree, name), 0);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(file(tree, path), -ENAMETOOLONG);
	/* links that make a path longer and longer */
	memset(target, '/', sizeof(target) - 1);
	memcpy(target, "grow", 4);
	target[sizeof(target) - 1] = '\0';
	assert_int_equal(link_to(tree, "grow", target), 0);
	assert_true(file(tree, "grow/x") < 0);
	assert_null(cs_tree_find(tree, "grow/x"));
}

static void test_depth_is_limited(void **state)
{
	struct cs_tree *tree = *state;
	char path[PATH_MAX] = "";
	int r = 0;

	for (int i = 0; i < 2000 && r == 0; i++) {
		memcpy(path + 2 * i, "d/", 3);
		r = folder(tree, path);
	}
	assert_int_equal(r, -EMLINK);
	/* by links as well, each of which stands in the last folder made */
	r = 0;
	for (int i = 0; i < 30 && r == 0; i++) {
		const struct cs_attr attr = { .mode = S_IFDIR | 0755 };
		const struct cs_tree_item item = { .path = "d/d/d/d/d/d/d/d/d/d/x/y",
						   .attr = &attr };
		struct cs_node *node;

		r = cs_tree_add(tree, &item, &node, NULL);
	}
	assert_int_equal(r, 0);
}

static void test_replacing(void **state)
{
	struct cs_tree *tree = *state;
	struct cs_node *root = cs_tree_root(tree);

	assert_int_equal(folder(tree, "d/e"), 0);
	assert_int_equal(file(tree, "d"), -EEXIST);
	assert_int_equal(link_to(tree, "d", "e"), -EEXIST);
	assert_int_equal(file(tree, "d/e"), 0); /* empty: replaced */
	assert_int_equal(cs_tree_find(tree, "d")->folders, 0);
	assert_int_equal(folder(tree, "d/e"), 0);
	assert_int_equal(cs_tree_find(tree, "d")->folders, 1);
	/* a folder over a folder takes its attributes and keeps what is in it */
	assert_int_equal(file(tree, "d/f"), 0);
	assert_int_equal(add(tree, "d", S_IFDIR | 01777, NULL), 0);
	assert_int_equal(cs_tree_find(tree, "d")->attr.mode, S_IFDIR | 01777);
	assert_non_null(cs_tree_find(tree, "d/f"));
	/* the root can be given attributes, and be nothing else */
	assert_int_equal(add(tree, "./", S_IFDIR | 0711, NULL), 0);
	assert_int_equal(root->attr.mode, S_IFDIR | 0711);
	assert_int_equal(file(tree, "."), -EEXIST);
	assert_int_equal(file(tree, "d/f/g"), -ENOTDIR);
	assert_int_equal(cs_tree_count(tree), 4);
}

static void test_hard_links(void **state)
{
	struct cs_tree *tree = *state;
	struct cs_node *node;

	assert_int_equal(file(tree, "a"), 0);
	node = cs_tree_find(tree, "a");
	assert_int_equal(cs_tree_link(tree, "d/b", "a", NULL), 0);
	assert_int_equal(cs_tree_link(tree, "d/b", "a", NULL), 0);
	assert_int_equal(cs_tree_link(tree, "a", "a", NULL), 0);
	assert_int_equal(node->links, 2);
	assert_ptr_equal(cs_tree_find(tree, "d/b"), node);
	assert_int_equal(file(tree, "a"), 0);
	assert_int_equal(node->links, 1);
	assert_int_equal(cs_tree_link(tree, "x", "gone", NULL), -ENOENT);
	assert_int_equal(cs_tree_link(tree, "x", "d", NULL), -EISDIR);
	assert_int_equal(cs_tree_link(tree, "d", "a", NULL), -EEXIST);
	assert_int_equal(cs_tree_link(tree, "/", "a", NULL), -EINVAL);
	assert_int_equal(link_to(tree, "l", "a"), 0);
	assert_int_equal(cs_tree_link(tree, "m", "l", NULL), 0); /* to the link itself */
	assert_true(S_ISLNK(cs_tree_find(tree, "d/b")->attr.mode) == 0);
	assert_int_equal(cs_tree_root(tree)->entry_count, 4);
}

static void test_names_in_a_folder(void **state)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "/" };
	const struct cs_attr attr = { .mode = S_IFREG };
	struct cs_tree *tree = *state;
	struct cs_node *node;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct cs_tree_item item = { .path = bad[i], .attr = &attr };

		assert_int_equal(cs_tree_add_in(tree, cs_tree_root(tree), &item, &node, NULL),
				 -EINVAL);
		assert_int_equal(
			cs_tree_link_in(tree, cs_tree_root(tree), bad[i], cs_tree_root(tree), NULL),
			-EINVAL);
	}
	assert_int_equal(cs_tree_count(tree), 1);
}

static int note_name(const struct cs_entry *entry, void *arg)
{
	strncat(arg, entry->name, 10);
	return strcmp(entry->name, "stop") ? 0 : 7;
}

static void test_order_and_attributes(void **state)
{
	struct cs_tree *tree = *state;
	char names[64] = "";
	struct cs_node *node;

	assert_int_equal(file(tree, "b"), 0);
	assert_int_equal(file(tree, "\xff"), 0);
	assert_int_equal(file(tree, "a"), 0);
	assert_int_equal(file(tree, "B"), 0);
	assert_int_equal(cs_tree_entries(cs_tree_root(tree), note_name, names), 0);
	assert_string_equal(names, "Bab\xff");
	assert_int_equal(file(tree, "stop"), 0);
	assert_int_equal(cs_tree_entries(cs_tree_root(tree), note_name, names), 7);

	node = cs_tree_find(tree, "a");
	assert_int_equal(cs_tree_xattr(node, "user.x", "one", 3), 0);
	assert_int_equal(cs_tree_xattr(node, "user.x", "", 0), 0);
	assert_int_equal(cs_tree_xattr(node, "user.y", "two", 3), 0);
	assert_string_equal(node->xattrs->name, "user.y");
	assert_int_equal(node->xattrs->next->bytes, 0);
	assert_null(node->xattrs->next->next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_paths_are_the_same, make, unmake),
		cmocka_unit_test_setup_teardown(test_links_lead_inside, make, unmake),
		cmocka_unit_test_setup_teardown(test_missing_folders, make, unmake),
		cmocka_unit_test_setup_teardown(test_loops_end, make, unmake),
		cmocka_unit_test_setup_teardown(test_long_paths, make, unmake),
		cmocka_unit_test_setup_teardown(test_depth_is_limited, make, unmake),
		cmocka_unit_test_setup_teardown(test_replacing, make, unmake),
		cmocka_unit_test_setup_teardown(test_hard_links, make, unmake),
		cmocka_unit_test_setup_teardown(test_names_in_a_folder, make, unmake),
		cmocka_unit_test_setup_teardown(test_order_and_attributes, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
