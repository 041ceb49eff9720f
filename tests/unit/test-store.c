/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stores: found, refused, locked and swept. */
#include <errno.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "store/subvol.h"
#include "tests/unit/store-fixture.h"

static void test_open(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_string_equal(cs_store_root(f->store), f->root);
	assert_int_equal(fstat(cs_store_templates_fd(f->store), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	assert_int_equal(fstat(cs_store_guests_fd(f->store), &st), 0);
	assert_int_equal(lstat(f->root, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
}

static int open_again(struct fixture *f)
{
	struct cs_store *store = NULL;
	int r;

	f->err = (struct cs_err){ 0 };
	r = cs_store_open(f->root, &store, &f->err);
	cs_store_free(store);
	if (r < 0)
		assert_null(strchr(f->err.text, '\n'));
	return r;
}

static void test_none(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(open_again(f), -ENOENT);
	assert_non_null(strstr(f->err.text, "clearstore init"));
	assert_int_equal(mkdir(f->root, 0700), 0);
	assert_int_equal(open_again(f), -ENOENT);
	assert_int_equal(rmdir(f->root), 0);
	scratch_write(f->scratch->fd, "store", "");
	assert_int_equal(open_again(f), -ENOTDIR);
}

static void test_other_versions(void **state)
{
	static const char *const damaged[] = {
		"",
		"{}",
		"[1]",
		"{\"format\": \"1\"}",
		"{\"format\": 0}",
		"{\"format\": -1}",
		"{\"format\": 1.5}",
		"garbage",
		"{\"format\": 1, \"format\": 1}",
	};
	struct fixture *f = *state;

	scratch_write(cs_store_dirfd(f->store), "store.json", "{\"format\": 2}\n");
	assert_int_equal(open_again(f), -EPROTO);
	assert_non_null(strstr(f->err.text, "newer clearstore (format 2, this one knows 1)"));
	for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
		scratch_write(cs_store_dirfd(f->store), "store.json", damaged[i]);
		assert_int_equal(open_again(f), -EBADMSG);
		assert_non_null(strstr(f->err.text, "damaged"));
	}
	/* what a later version adds is no reason to refuse */
	scratch_write(cs_store_dirfd(f->store), "store.json", "{\"format\": 1, \"x\": [2]}");
	assert_int_equal(open_again(f), 0);
	assert_int_equal(unlinkat(cs_store_dirfd(f->store), "guests", AT_REMOVEDIR), 0);
	assert_int_equal(open_again(f), -ENOENT);
	assert_non_null(strstr(f->err.text, "'guests'"));
}

static bool can_lock(struct fixture *f, bool exclusive)
{
	int fd = openat(cs_store_dirfd(f->store), ".lock", O_RDWR | O_CLOEXEC);
	bool locked = flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0;

	assert_true(fd >= 0);
	close(fd);
	return locked;
}

static void test_lock(void **state)
{
	struct fixture *f = *state;
	int shared, other, exclusive;

	assert_int_equal(cs_store_lock(f->store, false, &shared, NULL), 0);
	assert_int_equal(cs_store_lock(f->store, false, &other, NULL), 0);
	assert_false(can_lock(f, true));
	close(shared);
	assert_false(can_lock(f, true));
	close(other);
	assert_int_equal(cs_store_lock(f->store, true, &exclusive, NULL), 0);
	assert_false(can_lock(f, false));
	close(exclusive);
	assert_true(can_lock(f, true));
	/* a link in its place must not make another file the lock */
	assert_int_equal(unlinkat(cs_store_dirfd(f->store), ".lock", 0), 0);
	assert_int_equal(symlinkat("/tmp/x", cs_store_dirfd(f->store), ".lock"), 0);
	assert_int_equal(cs_store_lock(f->store, true, &exclusive, &f->err), -ELOOP);
}

static void make_dot(struct fixture *f, const char *name)
{
	int fd;

	assert_int_equal(mkdirat(cs_store_templates_fd(f->store), name, 0700), 0);
	fd = openat(cs_store_templates_fd(f->store), name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cs_subvol_create(fd, "1", NULL), 0);
	scratch_write(fd, "1/kernel", "half");
	assert_int_equal(symlinkat("1", fd, "active"), 0);
	assert_int_equal(cs_subvol_seal(fd, "1", NULL), 0);
	close(fd);
}

static void test_sweep(void **state)
{
	struct fixture *f = *state;
	int fd;

	fixture_need_btrfs(f);
	make_dot(f, ".dead.new");
	make_dot(f, ".dead.old");
	make_dot(f, ".alive.new");
	make_dot(f, "visible");
	fd = openat(cs_store_templates_fd(f->store), ".alive.new",
		    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	scratch_write(cs_store_templates_fd(f->store), ".file", "x");
	assert_int_equal(open_again(f), 0);
	assert_int_equal(fixture_dot_names(f), 1);
	assert_int_equal(faccessat(cs_store_templates_fd(f->store), ".alive.new/1/kernel", F_OK, 0),
			 0);
	assert_int_equal(faccessat(cs_store_templates_fd(f->store), "visible", F_OK, 0), 0);
	/* its maker dies: the lock is gone with it */
	close(fd);
	assert_int_equal(open_again(f), 0);
	assert_int_equal(fixture_dot_names(f), 0);
}

static void test_sweep_in_folder(void **state)
{
	struct fixture *f = *state;

	make_dot(f, ".dead.new");
	assert_int_equal(open_again(f), 0);
	assert_int_equal(fixture_dot_names(f), 0);
}

static void test_space(void **state)
{
	struct fixture *f = *state;
	uint64_t bytes = 0;

	assert_int_equal(cs_store_space(f->store, &bytes, NULL), 0);
	assert_true(bytes > 0);
}

static void test_space_of_image(void **state)
{
	struct fixture *f = *state;
	uint64_t bytes = 0;

	fixture_need_btrfs(f);
	assert_true(cs_store_is_btrfs(f->store));
	assert_int_equal(cs_store_space(f->store, &bytes, NULL), 0);
	assert_in_range(bytes, CS_MIB, 512 * CS_MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_open, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_none, fixture_bare, fixture_remove),
		cmocka_unit_test_setup_teardown(test_other_versions, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_lock, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_sweep_in_folder, fixture_in_folder,
						fixture_remove),
		cmocka_unit_test_setup_teardown(test_sweep, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_space, fixture_in_folder, fixture_remove),
		cmocka_unit_test_setup_teardown(test_space_of_image, fixture_on_btrfs,
						fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
