/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Subvolumes where there are any, folders elsewhere: the same calls on both. */
#include <errno.h>

#include "store/subvol.h"
#include "tests/unit/store-fixture.h"

/* Where the test works: in the store's guests/, so that both file systems are tried. */
static int dir_of(const struct fixture *f)
{
	return cs_store_guests_fd(f->store);
}

static void check_life(const struct fixture *f, bool btrfs)
{
	int dir = dir_of(f), fd;

	assert_int_equal(cs_subvol_create(dir, "s", NULL), 0);
	assert_int_equal(cs_subvol_is(dir, "s"), btrfs);
	assert_int_equal(cs_subvol_create(dir, "s", NULL), -EEXIST);
	scratch_write(dir, "s/file", "x");
	assert_int_equal(mkdirat(dir, "s/folder", 0755), 0);
	assert_int_equal(symlinkat("/etc/passwd", dir, "s/link"), 0);

	assert_int_equal(cs_subvol_seal(dir, "s", NULL), 0);
	fd = openat(dir, "s/file", O_WRONLY | O_CLOEXEC);
	if (btrfs)
		assert_int_equal(errno, EROFS);
	else if (geteuid())
		assert_int_equal(errno, EACCES);
	assert_true(fd < 0 || (!btrfs && geteuid() == 0));
	if (fd >= 0)
		close(fd);
	if (btrfs)
		assert_int_equal(unlinkat(dir, "s/file", 0), -1);

	assert_int_equal(cs_subvol_remove(dir, "s", NULL), 0);
	assert_int_equal(scratch_count(dir, "."), 0);
	assert_int_equal(access("/etc/passwd", F_OK), 0);
}

static void test_life_in_folder(void **state)
{
	const struct fixture *f = *state;

	if (cs_store_is_btrfs(f->store)) {
		print_message("skipped: the folder for temporary files is on Btrfs\n");
		skip();
	}
	check_life(f, false);
	assert_int_equal(cs_subvol_snapshot(dir_of(f), dir_of(f), "n", NULL), -EOPNOTSUPP);
}

static void test_life_on_btrfs(void **state)
{
	const struct fixture *f = *state;

	fixture_need_btrfs(f);
	check_life(f, true);
}

static void test_snapshot(void **state)
{
	const struct fixture *f = *state;
	int dir, source;

	fixture_need_btrfs(f);
	dir = dir_of(f);
	assert_int_equal(cs_subvol_create(dir, "s", NULL), 0);
	scratch_write(dir, "s/file", "first");
	assert_int_equal(cs_subvol_seal(dir, "s", NULL), 0);
	source = openat(dir, "s", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_subvol_snapshot(source, dir, "n", NULL), 0);
	assert_int_equal(cs_subvol_snapshot(source, dir, "n", NULL), -EEXIST);
	close(source);
	scratch_write(dir, "n/file", "second");
	scratch_write(dir, "n/more", "x");
	assert_int_equal(faccessat(dir, "s/more", F_OK, 0), -1);
	assert_int_equal(cs_subvol_remove(dir, "n", NULL), 0);
	assert_int_equal(cs_subvol_remove(dir, "s", NULL), 0);
}

/* Folders in subvolumes in folders, sealed and not. */
static void check_nested(const struct fixture *f)
{
	int dir = dir_of(f), fd;

	assert_int_equal(mkdirat(dir, "top", 0700), 0);
	fd = openat(dir, "top", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_subvol_create(fd, "one", NULL), 0);
	assert_int_equal(mkdirat(fd, "one/folder", 0700), 0);
	close(fd);
	fd = openat(dir, "top/one/folder", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_subvol_create(fd, "two", NULL), 0);
	scratch_write(fd, "two/file", "x");
	assert_int_equal(cs_subvol_seal(fd, "two", NULL), 0);
	close(fd);
	fd = openat(dir, "top", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_subvol_seal(fd, "one", NULL), 0);
	close(fd);
	assert_int_equal(cs_subvol_remove(dir, "top", NULL), 0);
	assert_int_equal(scratch_count(dir, "."), 0);
}

static void test_nested(void **state)
{
	check_nested(*state);
}

static void test_nested_on_btrfs(void **state)
{
	fixture_need_btrfs(*state);
	check_nested(*state);
}

static void test_remove_others(void **state)
{
	const struct fixture *f = *state;
	struct cs_err err = { 0 };
	int dir = dir_of(f), fd;

	assert_int_equal(cs_subvol_remove(dir, "gone", NULL), 0);
	scratch_write(dir, "file", "x");
	assert_int_equal(cs_subvol_remove(dir, "file", NULL), 0);
	/* a link goes, what it leads to stays */
	assert_int_equal(mkdirat(f->scratch->fd, "outside", 0700), 0);
	scratch_write(f->scratch->fd, "outside/file", "x");
	assert_int_equal(symlinkat(fixture_path(f, "outside"), dir, "link"), 0);
	assert_int_equal(cs_subvol_remove(dir, "link", NULL), 0);
	assert_int_equal(scratch_count(dir, "."), 0);
	assert_int_equal(faccessat(f->scratch->fd, "outside/file", F_OK, 0), 0);
	/* deeper than anything of ours: left alone, said so */
	assert_int_equal(mkdirat(dir, "deep", 0700), 0);
	fd = openat(dir, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 70; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "deep", 0700), 0);
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(cs_subvol_remove(dir, "deep", &err), -ELOOP);
	assert_string_not_equal(err.text, "");
	assert_int_equal(cs_remove_tree_at(dir, "deep"), 0);
	assert_int_equal(cs_subvol_seal(dir, "gone", &err), -ENOENT);
	assert_false(cs_subvol_is(dir, "gone"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_life_in_folder, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_life_on_btrfs, fixture_on_btrfs,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_snapshot, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_nested, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_nested_on_btrfs, fixture_on_btrfs,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_remove_others, fixture_in_folder,
						fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
