/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole transfers, publishing under kills and races, removing trees that do not want to go. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "store/base/own.h"
#include "tests/unit/scratch.h"

#define DEEP 3000 /* a path far longer than PATH_MAX, more folders than descriptors */

static void test_full_over_a_pipe(void **state)
{
	static char sent[300000], got[300000];
	int ends[2];
	pid_t pid;

	for (size_t i = 0; i < sizeof(sent); i++)
		sent[i] = (char)(i * 31);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(ends[0]);
		_exit(cs_write_full(ends[1], sent, sizeof(sent)) == 0 ? 0 : 1);
	}
	close(ends[1]);
	/* a pipe holds 64 KiB: both sides go through short transfers */
	assert_int_equal(cs_read_full(ends[0], got, sizeof(got)), 0);
	assert_memory_equal(sent, got, sizeof(sent));
	assert_int_equal(cs_read_full(ends[0], got, 1), -ENODATA);
	close(ends[0]);
	waitpid(pid, NULL, 0);
	assert_int_equal(cs_read_full(-1, got, 1), -EBADF);
	assert_int_equal(cs_write_full(-1, got, 1), -EBADF);
	assert_int_equal(cs_read_full(-1, got, 0), 0);
}

static void test_at_an_offset(void **state)
{
	struct scratch *scratch = *state;
	char buf[8] = "";
	int fd = openat(scratch->fd, "f", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(cs_pwrite_full(fd, "abc", 3, 4096), 0);
	assert_int_equal(cs_pread_full(fd, buf, 3, 4096), 0);
	assert_string_equal(buf, "abc");
	assert_int_equal(cs_pread_full(fd, buf, 4, 4096), -ENODATA);
	assert_int_equal(cs_pread_full(fd, buf, 1, UINT64_MAX), -EOVERFLOW);
	assert_int_equal(cs_pwrite_full(fd, buf, 2, INT64_MAX - 1), -EOVERFLOW);
	close(fd);
}

static void test_read_file(void **state)
{
	struct scratch *scratch = *state;
	char *text = NULL;
	size_t bytes = 77;
	int fd;

	scratch_write(scratch->fd, "f", "hello");
	assert_int_equal(cs_read_file_at(scratch->fd, "f", 5, &text, &bytes), 0);
	assert_string_equal(text, "hello");
	assert_int_equal(bytes, 5);
	free(text);
	scratch_write(scratch->fd, "empty", "");
	assert_int_equal(cs_read_file_at(scratch->fd, "empty", 0, &text, NULL), 0);
	assert_string_equal(text, "");
	free(text);
	/* one of more than a page, which is read in more than one piece */
	fd = openat(scratch->fd, "f", O_RDWR | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, 10000), 0);
	close(fd);
	assert_int_equal(cs_read_file_at(scratch->fd, "f", 10000, &text, &bytes), 0);
	assert_int_equal(bytes, 10000);
	free(text);
	assert_int_equal(cs_read_file_at(scratch->fd, "f", 9999, &text, &bytes), -EFBIG);
	/* a file whose size is said to be 0 */
	assert_int_equal(cs_read_file_at(AT_FDCWD, "/proc/meminfo", 65536, &text, &bytes), 0);
	assert_true(bytes > 100);
	assert_int_equal(strlen(text), bytes);
	free(text);
}

static void test_read_file_refuses(void **state)
{
	struct scratch *scratch = *state;
	char *text = (char *)1;

	scratch_write(scratch->fd, "f", "hello!");
	assert_int_equal(symlinkat("f", scratch->fd, "link"), 0);
	assert_int_equal(mkfifoat(scratch->fd, "fifo", 0600), 0);
	assert_int_equal(mkdirat(scratch->fd, "dir", 0700), 0);
	assert_int_equal(cs_read_file_at(scratch->fd, "f", 5, &text, NULL), -EFBIG);
	assert_int_equal(cs_read_file_at(scratch->fd, "link", 99, &text, NULL), -ELOOP);
	assert_int_equal(cs_read_file_at(scratch->fd, "fifo", 99, &text, NULL), -EINVAL);
	assert_int_equal(cs_read_file_at(scratch->fd, "dir", 99, &text, NULL), -EISDIR);
	assert_int_equal(cs_read_file_at(scratch->fd, "none", 99, &text, NULL), -ENOENT);
	assert_int_equal(cs_read_file_at(AT_FDCWD, "/dev/zero", 99, &text, NULL), -EINVAL);
	assert_ptr_equal(text, (char *)1);
}

static void assert_holds(int dirfd, const char *name, const char *want)
{
	char *text = NULL;

	assert_int_equal(cs_read_file_at(dirfd, name, 1 << 20, &text, NULL), 0);
	assert_string_equal(text, want);
	free(text);
}

static void test_publish(void **state)
{
	struct scratch *scratch = *state;
	struct stat st;
	mode_t mask = umask(077);

	assert_int_equal(cs_publish_at(scratch->fd, "f", 0644, "one", 3, NULL), 0);
	umask(mask);
	assert_holds(scratch->fd, "f", "one");
	assert_int_equal(fstatat(scratch->fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
	assert_int_equal(cs_publish_at(scratch->fd, "f", 0600, "two", 3, NULL), 0);
	assert_int_equal(cs_replace_at(scratch->fd, "f", 0600, "three", 5, NULL), 0);
	assert_holds(scratch->fd, "f", "three");
	assert_int_equal(scratch_count(scratch->fd, "."), 1);
}

static void test_publish_over_leftovers(void **state)
{
	struct scratch *scratch = *state;

	scratch_write(scratch->fd, ".f.new", "half of it, from one who was killed");
	assert_int_equal(cs_publish_at(scratch->fd, "f", 0600, "one", 3, NULL), 0);
	assert_int_equal(symlinkat("/etc/passwd", scratch->fd, ".f.new"), 0);
	assert_int_equal(cs_publish_at(scratch->fd, "f", 0600, "two", 3, NULL), 0);
	assert_holds(scratch->fd, "f", "two");
	assert_int_equal(scratch_count(scratch->fd, "."), 1);
	/* what cannot be cleared away is a failure, and the old stays */
	assert_int_equal(mkdirat(scratch->fd, ".f.new", 0700), 0);
	assert_true(cs_publish_at(scratch->fd, "f", 0600, "three", 5, NULL) < 0);
	assert_holds(scratch->fd, "f", "two");
}

static void test_publish_refuses(void **state)
{
	struct scratch *scratch = *state;
	struct cs_err err = { .code = 0 };
	char huge[NAME_MAX + 1];

	memset(huge, 'a', NAME_MAX);
	huge[NAME_MAX] = '\0';
	assert_int_equal(cs_publish_at(scratch->fd, "a/b", 0600, "x", 1, &err), -EINVAL);
	assert_int_equal(cs_publish_at(scratch->fd, "", 0600, "x", 1, &err), -EINVAL);
	assert_int_equal(cs_publish_at(scratch->fd, huge, 0600, "x", 1, &err), -ENAMETOOLONG);
	assert_int_equal(cs_publish_at(-1, "f", 0600, "x", 1, &err), -EBADF);
	assert_int_equal(err.code, EBADF);
	assert_int_equal(mkdirat(scratch->fd, "dir", 0700), 0);
	assert_int_equal(cs_publish_at(scratch->fd, "dir", 0600, "x", 1, &err), -EISDIR);
	assert_int_equal(scratch_count(scratch->fd, "."), 1);
}

static void publish_often(int dirfd, char letter)
{
	static char data[20000];

	memset(data, letter, sizeof(data));
	for (int i = 0; i < 60; i++) {
		if (cs_replace_at(dirfd, "f", 0600, data, sizeof(data), NULL) < 0)
			_exit(1);
	}
	_exit(0);
}

/* Several writers at once: each version that is ever to be seen is whole. */
static void test_publish_race(void **state)
{
	struct scratch *scratch = *state;
	pid_t pid[3];
	int status, left = 3;

	for (int i = 0; i < 3; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (!pid[i])
			publish_often(scratch->fd, (char)('a' + i));
	}
	while (left) {
		char *text = NULL;
		size_t bytes;

		if (waitpid(-1, &status, WNOHANG) > 0) {
			assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
			left--;
		}
		if (cs_read_file_at(scratch->fd, "f", 1 << 20, &text, &bytes) < 0)
			continue;
		assert_int_equal(bytes, 20000);
		for (size_t i = 1; i < bytes; i++)
			assert_int_equal(text[i], text[0]);
		free(text);
	}
	assert_int_equal(scratch_count(scratch->fd, "."), 1);
}

/* A writer killed at any moment leaves the old or the new, and the next one can write. */
static void test_publish_killed(void **state)
{
	struct scratch *scratch = *state;

	assert_int_equal(cs_publish_at(scratch->fd, "f", 0600, "old", 3, NULL), 0);
	for (useconds_t i = 0; i < 40; i++) {
		struct timespec pause = { .tv_nsec = 100000 + i * 37000 };
		char *text = NULL;
		size_t bytes;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid)
			publish_often(scratch->fd, 'k');
		nanosleep(&pause, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		assert_int_equal(cs_read_file_at(scratch->fd, "f", 1 << 20, &text, &bytes), 0);
		assert_true(bytes == 3 || bytes == 20000);
		free(text);
		assert_int_equal(cs_replace_at(scratch->fd, "f", 0600, "old", 3, NULL), 0);
		assert_int_equal(scratch_count(scratch->fd, "."), 1);
	}
}

static void test_folders(void **state)
{
	struct scratch *scratch = *state;

	assert_int_equal(cs_mkdir_at(scratch->fd, "a", 0700), 0);
	assert_int_equal(cs_mkdir_at(scratch->fd, "a", 0700), 0);
	assert_int_equal(cs_mkdir_at(scratch->fd, "x/y", 0700), -ENOENT);
	assert_int_equal(cs_mkdir_path(scratch->fd, "a/b//c/", 0700), 0);
	assert_int_equal(cs_mkdir_path(scratch->fd, "a/b/c", 0700), 0);
	assert_false(cs_missing_at(scratch->fd, "a/b/c"));
	assert_int_equal(cs_mkdir_path(scratch->fd, "", 0700), -ENOENT);
	scratch_write(scratch->fd, "f", "");
	assert_int_equal(cs_mkdir_at(scratch->fd, "f", 0700), -ENOTDIR);
	assert_int_equal(cs_mkdir_path(scratch->fd, "f/g", 0700), -ENOTDIR);
	assert_true(cs_missing_at(scratch->fd, "none"));
	assert_true(cs_missing_at(scratch->fd, "f/none"));
	assert_int_equal(symlinkat("none", scratch->fd, "dangling"), 0);
	assert_false(cs_missing_at(scratch->fd, "dangling"));
	assert_int_equal(cs_sync_dir(scratch->fd), 0);
	assert_int_equal(cs_sync_dir(-1), -EBADF);
}

static void test_remove_tree(void **state)
{
	struct scratch *scratch = *state;

	assert_int_equal(cs_mkdir_path(scratch->fd, "t/a/b", 0700), 0);
	assert_int_equal(cs_mkdir_path(scratch->fd, "t/c", 0700), 0);
	assert_int_equal(cs_mkdir_path(scratch->fd, "keep/me", 0700), 0);
	scratch_write(scratch->fd, "t/a/b/f", "x");
	scratch_write(scratch->fd, "t/g", "x");
	assert_int_equal(mkfifoat(scratch->fd, "t/fifo", 0600), 0);
	assert_int_equal(symlinkat("../keep", scratch->fd, "t/link"), 0);
	assert_int_equal(symlinkat("/", scratch->fd, "t/a/root"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "t"), 0);
	assert_true(cs_missing_at(scratch->fd, "t"));
	assert_false(cs_missing_at(scratch->fd, "keep/me"));

	/* a link is removed, not what it leads to */
	assert_int_equal(symlinkat("keep", scratch->fd, "l"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "l"), 0);
	assert_false(cs_missing_at(scratch->fd, "keep/me"));
	scratch_write(scratch->fd, "f", "x");
	assert_int_equal(cs_remove_tree_at(scratch->fd, "f"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "f"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "no/such"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "keep/me/"), 0);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "."), -EINVAL);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "keep/.."), -EINVAL);
	assert_int_equal(cs_remove_tree_at(scratch->fd, ""), -EINVAL);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "/"), -EINVAL);
	assert_false(cs_missing_at(scratch->fd, "keep"));
}

static void test_remove_deep_tree(void **state)
{
	struct scratch *scratch = *state;
	int fd = dup(scratch->fd);

	for (int i = 0; i < DEEP; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "deep", 0700), 0);
		scratch_write(fd, "beside", "x");
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(cs_remove_tree_at(scratch->fd, "deep"), 0);
	assert_true(cs_missing_at(scratch->fd, "deep"));
}

static void test_remove_wide_tree(void **state)
{
	struct scratch *scratch = *state;
	char path[64];

	assert_int_equal(mkdirat(scratch->fd, "w", 0700), 0);
	for (int i = 0; i < 1500; i++) {
		snprintf(path, sizeof(path), "w/dir-%d", i);
		assert_int_equal(mkdirat(scratch->fd, path, 0700), 0);
		snprintf(path, sizeof(path), "w/dir-%d/f", i);
		scratch_write(scratch->fd, path, "");
		snprintf(path, sizeof(path), "w/file-%d", i);
		scratch_write(scratch->fd, path, "");
	}
	assert_int_equal(cs_remove_tree_at(scratch->fd, "w"), 0);
	assert_int_equal(scratch_count(scratch->fd, "."), 0);
}

#define SCRATCH_TEST(test) cmocka_unit_test_setup_teardown(test, scratch_make, scratch_remove)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_over_a_pipe),
		SCRATCH_TEST(test_at_an_offset),
		SCRATCH_TEST(test_read_file),
		SCRATCH_TEST(test_read_file_refuses),
		SCRATCH_TEST(test_publish),
		SCRATCH_TEST(test_publish_over_leftovers),
		SCRATCH_TEST(test_publish_refuses),
		SCRATCH_TEST(test_publish_race),
		SCRATCH_TEST(test_publish_killed),
		SCRATCH_TEST(test_folders),
		SCRATCH_TEST(test_remove_tree),
		SCRATCH_TEST(test_remove_deep_tree),
		SCRATCH_TEST(test_remove_wide_tree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
