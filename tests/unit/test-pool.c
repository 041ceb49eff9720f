/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is under a store: made, mounted again, taken back. */
#include <errno.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "store/loopdev.h"
#include "tests/unit/store-fixture.h"

static int init(struct fixture *f, const char *path, uint64_t bytes)
{
	const struct cs_pool_spec spec = { .root = f->root, .path = path, .bytes = bytes };
	int r;

	f->err = (struct cs_err){ 0 };
	r = cs_pool_init(&spec, &f->err);
	assert_null(strchr(f->err.text, '\n'));
	return r;
}

static bool is_mount(const char *path)
{
	struct statx st;

	return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &st) == 0 &&
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

/* Loop devices on the fixture's image. */
static int loops_of(const struct fixture *f)
{
	int n = 0;

	for (int i = 0; i < 256; i++) {
		char name[64], backing[600] = "";
		FILE *file;

		snprintf(name, sizeof(name), "/sys/block/loop%d/loop/backing_file", i);
		file = fopen(name, "re");
		if (!file)
			continue;
		if (fgets(backing, sizeof(backing), file) &&
		    !strncmp(backing, f->scratch->path, strlen(f->scratch->path)))
			n++;
		fclose(file);
	}
	return n;
}

static void test_image(void **state)
{
	struct fixture *f = *state;
	struct statvfs fs;
	struct stat st;

	fixture_need_btrfs(f);
	assert_true(is_mount(f->root));
	assert_int_equal(loops_of(f), 1);
	assert_int_equal(statvfs(f->root, &fs), 0);
	assert_int_equal(fs.f_flag & (ST_NODEV | ST_NOSUID | ST_NOEXEC | ST_NOATIME),
			 ST_NODEV | ST_NOSUID | ST_NOEXEC | ST_NOATIME);
	assert_int_equal(stat(fixture_path(f, "store.img"), &st), 0);
	assert_int_equal(st.st_size, 512 * CS_MIB);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true((uint64_t)st.st_blocks * 512 < 32 * CS_MIB);
	assert_int_equal(access(fixture_path(f, "store.img.new"), F_OK), -1);
	assert_int_equal(init(f, NULL, 0), -EEXIST);
	assert_int_equal(init(f, f->folder, 0), -EEXIST);
}

/* As after a reboot: the next command mounts it. */
static void test_again(void **state)
{
	struct fixture *f = *state;

	fixture_need_btrfs(f);
	scratch_write(cs_store_guests_fd(f->store), "kept", "x");
	assert_int_equal(cs_pool_unmount(f->root, &f->err), -EBUSY);
	f->store = cs_store_free(f->store);
	assert_int_equal(cs_pool_unmount(f->root, NULL), 0);
	assert_false(is_mount(f->root));
	assert_int_equal(loops_of(f), 0);
	assert_int_equal(init(f, NULL, 0), -EEXIST);
	fixture_open(f);
	assert_true(is_mount(f->root));
	assert_int_equal(faccessat(cs_store_guests_fd(f->store), "kept", F_OK, 0), 0);
	assert_int_equal(cs_pool_mount(f->root, NULL), 0);
	assert_int_equal(loops_of(f), 1);
	/* the folder that it is mounted on may be gone, too */
	f->store = cs_store_free(f->store);
	assert_int_equal(cs_pool_unmount(f->root, NULL), 0);
	assert_int_equal(rmdir(f->root), 0);
	fixture_open(f);
}

static void test_two_at_once(void **state)
{
	struct fixture *f = *state;
	pid_t pids[8];
	int status, mounts = 0;
	char *line = NULL;
	size_t room = 0;
	FILE *file;

	fixture_need_btrfs(f);
	f->store = cs_store_free(f->store);
	assert_int_equal(cs_pool_unmount(f->root, NULL), 0);
	for (int i = 0; i < 8; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (!pids[i])
			_exit(cs_store_open(f->root, &f->store, NULL) == 0 ? 0 : 1);
	}
	for (int i = 0; i < 8; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	file = fopen("/proc/self/mounts", "re");
	assert_non_null(file);
	while (getline(&line, &room, file) > 0)
		mounts += strstr(line, f->root) != NULL;
	fclose(file);
	free(line);
	assert_int_equal(mounts, 1);
	assert_int_equal(loops_of(f), 1);
}

/* In another mount namespace it is mounted from the same device: two would tear it. */
static void test_one_device(void **state)
{
	struct fixture *f = *state;
	char first[CS_LOOPDEV_PATH], second[CS_LOOPDEV_PATH];
	int image, a = -1, b = -1;
	struct loop_info64 info;

	fixture_need_btrfs(f);
	image = open(fixture_path(f, "store.img"), O_RDWR | O_CLOEXEC);
	assert_true(image >= 0);
	assert_int_equal(cs_loopdev_attach(image, false, &a, first, NULL), 0);
	assert_int_equal(cs_loopdev_attach(image, false, &b, second, NULL), 0);
	assert_string_equal(first, second);
	assert_int_equal(ioctl(a, LOOP_GET_STATUS64, &info), 0);
	assert_true(info.lo_flags & LO_FLAGS_AUTOCLEAR);
	close(a);
	close(b);
	close(image);
	assert_int_equal(loops_of(f), 1);
}

static void test_remove(void **state)
{
	struct fixture *f = *state;

	fixture_need_btrfs(f);
	scratch_write(cs_store_guests_fd(f->store), "guest", "x");
	assert_int_equal(cs_pool_remove(f->root, &f->err), -ENOTEMPTY);
	assert_non_null(strstr(f->err.text, "still holds guests"));
	assert_int_equal(unlinkat(cs_store_guests_fd(f->store), "guest", 0), 0);
	assert_int_equal(cs_pool_remove(f->root, &f->err), -EBUSY);
	assert_true(is_mount(f->root));
	f->store = cs_store_free(f->store);
	assert_int_equal(cs_pool_remove(f->root, NULL), 0);
	assert_int_equal(scratch_count(f->scratch->fd, "."), 0);
	assert_int_equal(loops_of(f), 0);
	assert_int_equal(cs_pool_remove(f->root, &f->err), -ENOENT);
	f->image = false;
}

/* A maker that was killed left a file behind: the next takes it over. */
static void test_leftover(void **state)
{
	struct fixture *f = *state;
	int fd;

	if (geteuid() || access("/dev/loop-control", F_OK) < 0) {
		print_message("skipped: needs root and loop devices\n");
		skip();
	}
	scratch_write(f->scratch->fd, "store.img.new", "half");
	fd = openat(f->scratch->fd, "store.img.new", O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(init(f, NULL, 512 * CS_MIB), -EBUSY);
	assert_non_null(strstr(f->err.text, "another process makes this store"));
	assert_int_equal(access(fixture_path(f, "store.img.new"), F_OK), 0);
	assert_int_equal(access(f->root, F_OK), -1);
	close(fd);
	assert_int_equal(init(f, NULL, 512 * CS_MIB), 0);
	f->image = true;
	assert_int_equal(access(fixture_path(f, "store.img.new"), F_OK), -1);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(init(f, NULL, CS_MIB), -EINVAL);
	assert_non_null(strstr(f->err.text, "256M at least"));
	assert_int_equal(mkdir(f->root, 0700), 0);
	scratch_write(f->scratch->fd, "store/mine", "x");
	assert_int_equal(init(f, NULL, CS_GIB), -ENOTEMPTY);
	assert_int_equal(access(fixture_path(f, "store/mine"), F_OK), 0);
	assert_int_equal(unlinkat(f->scratch->fd, "store/mine", 0), 0);
	assert_int_equal(rmdir(f->root), 0);
	scratch_write(f->scratch->fd, "store", "a file");
	assert_int_equal(init(f, NULL, CS_GIB), -ENOTDIR);
	snprintf(f->root, sizeof(f->root), "/");
	assert_int_equal(init(f, NULL, CS_GIB), -EINVAL);
	assert_int_equal(scratch_count(f->scratch->fd, "."), 1);
}

static void test_folder(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	/* made when it is not there */
	assert_int_equal(init(f, f->folder, 0), 0);
	assert_int_equal(lstat(f->root, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(init(f, f->folder, 0), -EEXIST);
	/* a store that is there already is taken as it is */
	assert_int_equal(unlink(f->root), 0);
	assert_int_equal(init(f, f->folder, 0), 0);
	assert_int_equal(cs_pool_remove(f->root, NULL), 0);
	assert_int_equal(scratch_count(f->scratch->fd, "folder"), 0);
	assert_int_equal(lstat(f->root, &st), -1);
	/* the root itself, without a link */
	assert_int_equal(init(f, f->root, 0), 0);
	assert_int_equal(lstat(f->root, &st), 0);
	assert_true(S_ISDIR(st.st_mode));
	assert_int_equal(cs_pool_remove(f->root, NULL), 0);
}

static void test_folder_refused(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(mkdir(f->folder, 0700), 0);
	scratch_write(f->scratch->fd, "folder/mine", "x");
	assert_int_equal(init(f, f->folder, 0), -ENOTEMPTY);
	assert_non_null(strstr(f->err.text, "holds other things"));
	assert_int_equal(scratch_count(f->scratch->fd, "folder"), 1);
	assert_int_equal(unlinkat(f->scratch->fd, "folder/mine", 0), 0);
	/* the link cannot be made: nothing stays behind */
	scratch_write(f->scratch->fd, "store", "a file");
	assert_int_equal(init(f, f->folder, 0), -EEXIST);
	assert_int_equal(scratch_count(f->scratch->fd, "folder"), 0);
	assert_int_equal(init(f, fixture_path(f, "fresh"), 0), -EEXIST);
	assert_int_equal(access(fixture_path(f, "fresh"), F_OK), -1);
	/* of a newer version */
	scratch_write(f->scratch->fd, "folder/store.json", "{\"format\": 9}");
	assert_int_equal(init(f, f->folder, 0), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_image, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_again, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_two_at_once, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_one_device, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_remove, fixture_on_btrfs, fixture_remove),
		cmocka_unit_test_setup_teardown(test_leftover, fixture_bare, fixture_remove),
		cmocka_unit_test_setup_teardown(test_refused, fixture_bare, fixture_remove),
		cmocka_unit_test_setup_teardown(test_folder, fixture_bare, fixture_remove),
		cmocka_unit_test_setup_teardown(test_folder_refused, fixture_bare, fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
