/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A private file of a template's: by reflink where that goes, by a sparse copy everywhere. The
 * Btrfs for it is made here; without root or loop devices those tests are skipped. */
#include <errno.h>
#include <sys/wait.h>

#include "cow/clone-private.h"
#include "cow/clone.h"
#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/run.h"
#include "tests/unit/scratch.h"

#define DISK_BYTES (64 * CS_MIB)

/* Sparse: data at 0, in the middle, and at the very end. */
static int make_disk(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	char block[8192];

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	memset(block, 'd', sizeof(block));
	assert_int_equal(cs_pwrite_full(fd, block, sizeof(block), 0), 0);
	assert_int_equal(cs_pwrite_full(fd, block, sizeof(block), 20 * CS_MIB), 0);
	assert_int_equal(cs_pwrite_full(fd, "end", 3, DISK_BYTES - 3), 0);
	assert_int_equal(fsync(fd), 0);
	return fd;
}

static void assert_same(int a, int dirfd, const char *name)
{
	static char one[CS_MIB], two[CS_MIB];
	int b = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	struct stat st;

	assert_true(b >= 0);
	assert_int_equal(fstat(b, &st), 0);
	assert_int_equal(st.st_size, DISK_BYTES);
	assert_int_equal(st.st_mode & 07777, 0600);
	for (uint64_t offset = 0; offset < DISK_BYTES; offset += CS_MIB) {
		assert_int_equal(cs_pread_full(a, one, CS_MIB, offset), 0);
		assert_int_equal(cs_pread_full(b, two, CS_MIB, offset), 0);
		assert_memory_equal(one, two, CS_MIB);
	}
	close(b);
}

static uint64_t allocated(int dirfd, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dirfd, name, &st, 0), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_copy(void **state)
{
	struct scratch *scratch = *state;
	int fd = make_disk(scratch->fd, "disk");

	assert_int_equal(cs_clone_copy.clone_file(fd, scratch->fd, "copy", NULL), 0);
	assert_same(fd, scratch->fd, "copy");
	assert_true(allocated(scratch->fd, "copy") < CS_MIB);
	close(fd);
}

static void test_copy_of_odd_sizes(void **state)
{
	static const size_t sizes[] = { 0, 1, 511, 65535, 65536, 65537, 200001 };
	static char data[200001], back[200001];
	struct scratch *scratch = *state;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i / 7);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		int fd = openat(scratch->fd, "f", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		int copy;
		struct stat st;

		assert_int_equal(cs_write_full(fd, data, sizes[i]), 0);
		assert_int_equal(cs_clone_copy.clone_file(fd, scratch->fd, "c", NULL), 0);
		copy = openat(scratch->fd, "c", O_RDONLY | O_CLOEXEC);
		assert_int_equal(fstat(copy, &st), 0);
		assert_int_equal(st.st_size, sizes[i]);
		assert_int_equal(cs_pread_full(copy, back, sizes[i], 0), 0);
		assert_memory_equal(back, data, sizes[i]);
		close(copy);
		close(fd);
		assert_int_equal(unlinkat(scratch->fd, "c", 0), 0);
	}
}

/* Between file systems, where copy_file_range() says EXDEV or reads through: /dev/shm is a tmpfs.
 */
static void test_copy_across(void **state)
{
	struct scratch *scratch = *state;
	char path[] = "/dev/shm/clearstore-test-XXXXXX";
	int far, fd;

	if (!mkdtemp(path)) {
		print_message("no /dev/shm to copy from\n");
		skip();
	}
	far = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(far >= 0);
	fd = make_disk(far, "disk");
	assert_int_equal(cs_clone_copy.clone_file(fd, scratch->fd, "copy", NULL), 0);
	assert_same(fd, scratch->fd, "copy");
	assert_true(allocated(scratch->fd, "copy") < CS_MIB);
	close(fd);
	close(far);
	assert_int_equal(cs_remove_tree_at(AT_FDCWD, path), 0);
}

static void test_table(void **state)
{
	struct scratch *scratch = *state;
	int fd = make_disk(scratch->fd, "disk");
	struct cs_err err = { .code = 0 };
	const char *how = NULL;

	assert_ptr_equal(cs_clone_table[0], &cs_clone_reflink);
	assert_ptr_equal(cs_clone_table[1], &cs_clone_copy);
	assert_null(cs_clone_table[2]);
	/* whatever this file system can */
	assert_int_equal(cs_clone_file(fd, scratch->fd, "a", &how, NULL), 0);
	assert_non_null(how);
	assert_same(fd, scratch->fd, "a");
	/* the good path switched off */
	setenv("CLEARSTORE_CLONE", "copy", 1);
	assert_int_equal(cs_clone_file(fd, scratch->fd, "b", &how, NULL), 0);
	assert_string_equal(how, "copy");
	assert_same(fd, scratch->fd, "b");
	setenv("CLEARSTORE_CLONE", "magic", 1);
	assert_int_equal(cs_clone_file(fd, scratch->fd, "c", NULL, &err), -EINVAL);
	assert_non_null(strstr(err.text, "magic"));
	setenv("CLEARSTORE_CLONE", "", 1);
	assert_int_equal(cs_clone_file(fd, scratch->fd, "d", NULL, &err), 0);
	unsetenv("CLEARSTORE_CLONE");
	assert_true(cs_missing_at(scratch->fd, "c"));
	close(fd);
}

static void test_failures_leave_nothing(void **state)
{
	struct scratch *scratch = *state;
	int fd = make_disk(scratch->fd, "disk"), ends[2], dir;
	struct cs_err err = { .code = 0 };

	scratch_write(scratch->fd, "taken", "mine");
	assert_int_equal(cs_clone_file(fd, scratch->fd, "taken", NULL, &err), -EEXIST);
	assert_int_equal(allocated(scratch->fd, "taken") < CS_MIB, 1);
	assert_int_equal(cs_clone_file(-1, scratch->fd, "x", NULL, &err), -EBADF);
	assert_true(err.text[0]);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_true(cs_clone_file(ends[0], scratch->fd, "x", NULL, &err) < 0);
	dir = open(scratch->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(cs_clone_file(dir, scratch->fd, "x", NULL, &err) < 0);
	assert_true(cs_missing_at(scratch->fd, "x"));
	assert_int_equal(scratch_count(scratch->fd, "."), 2);
	close(dir);
	close(ends[0]);
	close(ends[1]);
	close(fd);
}

/* ---- on Btrfs ------------------------------------------------------------------------------- */

struct btrfs {
	struct scratch *scratch;
	int fd; /* of the mounted file system; -1: could not be made */
};

static int btrfs_make(void **state)
{
	struct btrfs *btrfs = calloc(1, sizeof(*btrfs));
	struct cs_err err = { .code = 0 };
	char image[300], where[300];
	int fd;

	scratch_make((void **)&btrfs->scratch);
	btrfs->fd = -1;
	*state = btrfs;
	snprintf(image, sizeof(image), "%s/image", btrfs->scratch->path);
	snprintf(where, sizeof(where), "%s/mnt", btrfs->scratch->path);
	fd = openat(btrfs->scratch->fd, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 256 * CS_MIB), 0);
	close(fd);
	mkdirat(btrfs->scratch->fd, "mnt", 0700);
	if (cs_run((const char *const[]){ "mkfs.btrfs", "-q", image, NULL }, "btrfs-progs", &err) <
		    0 ||
	    cs_run((const char *const[]){ "mount", "-o", "loop", image, where, NULL }, "mount",
		   &err) < 0) {
		print_message("no Btrfs to test on: %s\n", err.text);
		return 0;
	}
	btrfs->fd = open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return 0;
}

static int btrfs_remove(void **state)
{
	struct btrfs *btrfs = *state;
	char where[300];

	if (btrfs->fd >= 0) {
		close(btrfs->fd);
		snprintf(where, sizeof(where), "%s/mnt", btrfs->scratch->path);
		assert_int_equal(
			cs_run((const char *const[]){ "umount", where, NULL }, "mount", NULL), 0);
	}
	scratch_remove((void **)&btrfs->scratch);
	free(btrfs);
	return 0;
}

static void test_reflink(void **state)
{
	struct btrfs *btrfs = *state;
	const char *how = NULL;
	char block[8192] = { 0 };
	int disk, clone;

	if (btrfs->fd < 0)
		skip();
	disk = make_disk(btrfs->fd, "disk");
	assert_int_equal(cs_clone_file(disk, btrfs->fd, "clone", &how, NULL), 0);
	assert_string_equal(how, "reflink");
	assert_same(disk, btrfs->fd, "clone");
	/* private: what is written to the one is not in the other */
	clone = openat(btrfs->fd, "clone", O_RDWR | O_CLOEXEC);
	assert_int_equal(cs_pwrite_full(clone, "guest", 5, 0), 0);
	assert_int_equal(cs_pread_full(disk, block, 5, 0), 0);
	assert_memory_equal(block, "ddddd", 5);
	close(clone);
	close(disk);
}

/* From another file system it falls through to the copy. */
static void test_reflink_falls_through(void **state)
{
	struct btrfs *btrfs = *state;
	const char *how = NULL;
	int disk;

	if (btrfs->fd < 0)
		skip();
	disk = make_disk(btrfs->scratch->fd, "disk");
	assert_int_equal(cs_clone_reflink.clone_file(disk, btrfs->fd, "clone", NULL), -EXDEV);
	assert_true(cs_missing_at(btrfs->fd, "clone"));
	assert_int_equal(cs_clone_file(disk, btrfs->fd, "clone", &how, NULL), 0);
	assert_string_equal(how, "copy");
	assert_same(disk, btrfs->fd, "clone");
	close(disk);
}

/* A full store: the copy fails with words and takes back what it wrote. */
static void test_no_space(void **state)
{
	struct btrfs *btrfs = *state;
	static char data[CS_MIB];
	struct cs_err err = { .code = 0 };
	int disk;

	if (btrfs->fd < 0)
		skip();
	disk = openat(btrfs->scratch->fd, "big", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	memset(data, 'x', sizeof(data));
	for (int i = 0; i < 300; i++)
		assert_int_equal(cs_write_full(disk, data, sizeof(data)), 0);
	assert_int_equal(cs_clone_file(disk, btrfs->fd, "clone", NULL, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "No space left"));
	assert_true(cs_missing_at(btrfs->fd, "clone"));
	close(disk);
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)
#define BTRFS_TEST(test)   cmocka_unit_test_setup_teardown(test, btrfs_make, btrfs_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		SCRATCH_TEST(test_copy),
		SCRATCH_TEST(test_copy_of_odd_sizes),
		SCRATCH_TEST(test_copy_across),
		SCRATCH_TEST(test_table),
		SCRATCH_TEST(test_failures_leave_nothing),
		BTRFS_TEST(test_reflink),
		BTRFS_TEST(test_reflink_falls_through),
		BTRFS_TEST(test_no_space),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
