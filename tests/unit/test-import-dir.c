/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A folder comes in as it is. */
#include <errno.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "tests/unit/import.h"

static int import(struct fixture *f)
{
	f->err = (struct cs_err){ 0 };
	return cs_import_dir(&f->import, fixture_path(f, "from"), &f->err);
}

static int make(void **state)
{
	struct fixture *f;

	fixture_make(state);
	f = *state;
	assert_int_equal(mkdirat(f->scratch->fd, "from", 0751), 0);
	return 0;
}

static void test_kinds(void **state)
{
	struct fixture *f = *state;
	int dirfd = openat(f->scratch->fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct timespec times[] = { { 1, 2 }, { 1000000000, 123456789 } };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct cs_node *node;
	int fd;

	scratch_write(dirfd, "file", "contents");
	assert_int_equal(fchmodat(dirfd, "file", 04751, 0), 0);
	assert_int_equal(utimensat(dirfd, "file", times, 0), 0);
	assert_int_equal(mkdirat(dirfd, "d", 0700), 0);
	assert_int_equal(linkat(dirfd, "file", dirfd, "d/again", 0), 0);
	assert_int_equal(symlinkat("../file", dirfd, "d/link"), 0);
	assert_int_equal(symlinkat("/nowhere", dirfd, "dangling"), 0);
	assert_int_equal(mkfifoat(dirfd, "fifo", 0640), 0);
	scratch_write(dirfd, "empty", "");
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.90s/from/s", f->scratch->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	if (geteuid() == 0) {
		assert_int_equal(mknodat(dirfd, "null", S_IFCHR | 0666, makedev(1, 3)), 0);
		assert_int_equal(fchmodat(dirfd, "null", 0666, 0), 0);
		assert_int_equal(fchownat(dirfd, "fifo", 4000000000u, 70000, 0), 0);
	}
	close(dirfd);

	if (import(f) < 0)
		fail_msg("%s", f->err.text);
	fixture_expect(f, "file", 8, 0, "contents");
	node = fixture_find(f, "file");
	assert_int_equal(node->attr.mode, S_IFREG | 04751);
	assert_int_equal(node->attr.mtime.tv_sec, 1000000000);
	assert_int_equal(node->attr.mtime.tv_nsec, 123456789);
	assert_int_equal(node->links, 2);
	assert_ptr_equal(fixture_find(f, "d/again"), node);
	assert_ptr_equal(fixture_find(f, "d/link"), node);
	assert_int_equal(fixture_find(f, "empty")->bytes, 0);
	assert_int_equal(fixture_find(f, "fifo")->attr.mode, S_IFIFO | 0640);
	assert_null(cs_tree_find(f->import.tree, "s"));
	assert_null(cs_tree_find(f->import.tree, "dangling"));
	assert_int_equal(cs_tree_root(f->import.tree)->attr.mode, S_IFDIR | 0751);
	assert_int_equal(f->import.input_bytes, 8);
	assert_int_equal(f->import.files, geteuid() ? 7 : 8);
	if (geteuid() == 0) {
		assert_int_equal(fixture_find(f, "null")->attr.mode, S_IFCHR | 0666);
		assert_int_equal(fixture_find(f, "null")->attr.device, makedev(1, 3));
		assert_int_equal(fixture_find(f, "fifo")->attr.uid, 4000000000u);
		assert_int_equal(fixture_find(f, "fifo")->attr.gid, 70000);
	}
}

static void test_xattrs(void **state)
{
	static const char capability[20] = { 1, 0, 0, 2, 0, 4 };
	struct fixture *f = *state;
	const struct cs_xattr *xattr;
	char path[512];

	scratch_write(f->scratch->fd, "from/file", "");
	assert_int_equal(mkdirat(f->scratch->fd, "from/dir", 0700), 0);
	snprintf(path, sizeof(path), "%s", fixture_path(f, "from/file"));
	if (setxattr(path, "user.test", "value", 5, 0) < 0) {
		print_message("skipped: no extended attributes on this file system\n");
		skip();
	}
	assert_int_equal(setxattr(path, "user.empty", "", 0, 0), 0);
	assert_int_equal(setxattr(fixture_path(f, "from/dir"), "user.d", "dir", 3, 0), 0);
	assert_int_equal(setxattr(fixture_path(f, "from"), "user.r", "root", 4, 0), 0);
	if (geteuid() == 0) {
		assert_int_equal(setxattr(path, "security.capability", capability, 20, 0), 0);
		assert_int_equal(symlinkat("file", f->scratch->fd, "from/link"), 0);
		assert_int_equal(lsetxattr(fixture_path(f, "from/link"), "trusted.l", "link", 4, 0),
				 0);
	}
	assert_int_equal(import(f), 0);
	xattr = fixture_xattr(f, "file", "user.test");
	assert_int_equal(xattr->bytes, 5);
	assert_memory_equal(xattr->value, "value", 5);
	assert_int_equal(fixture_xattr(f, "file", "user.empty")->bytes, 0);
	assert_memory_equal(fixture_xattr(f, "dir", "user.d")->value, "dir", 3);
	assert_memory_equal(fixture_xattr(f, "/", "user.r")->value, "root", 4);
	if (geteuid() == 0)
		assert_memory_equal(fixture_xattr(f, "file", "security.capability")->value,
				    capability, 20);
}

static void test_sparse(void **state)
{
	struct fixture *f = *state;
	int fd = openat(f->scratch->fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int file = openat(fd, "sparse", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	/* far more than the image may take: only its data counts */
	assert_int_equal(pwrite(file, "front", 5, 0), 5);
	assert_int_equal(pwrite(file, "middle", 6, (off_t)CS_GIB), 6);
	assert_int_equal(ftruncate(file, (off_t)CS_TIB), 0);
	close(file);
	close(fd);
	if (import(f) < 0)
		fail_msg("%s", f->err.text);
	fixture_expect(f, "sparse", CS_TIB, 0, "front");
	fixture_expect(f, "sparse", CS_TIB, CS_GIB, "middle");
	fixture_expect(f, "sparse", CS_TIB, CS_TIB / 2, "");
	assert_true(f->import.input_bytes < CS_MIB);
	assert_true(cs_image_tell(f->import.image) < 8 * CS_MIB);
}

static void test_too_much(void **state)
{
	struct fixture *f = *state;
	char *data = malloc(2 * CS_MIB);
	int file = openat(f->scratch->fd, "from/large", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_non_null(data);
	memset(data, 'x', 2 * CS_MIB);
	assert_int_equal(write(file, data, 2 * CS_MIB), 2 * CS_MIB);
	close(file);
	free(data);
	cs_image_free(f->import.image);
	assert_int_equal(cs_image_open(f->fd, 4096, CS_MIB, &f->import.image, NULL), 0);
	assert_int_equal(import(f), -ENOSPC);
	assert_non_null(strstr(f->err.text, "from/large"));
}

static void test_deep(void **state)
{
	struct fixture *f = *state;
	int fd = openat(f->scratch->fd, "from", O_RDONLY | O_DIRECTORY | O_CLOEXEC), next;

	for (int i = 0; i < 300; i++) {
		assert_int_equal(mkdirat(fd, "deep", 0700), 0);
		next = openat(fd, "deep", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	close(fd);
	assert_int_equal(import(f), -EMLINK);
	assert_non_null(strstr(f->err.text, "folders deep"));
}

static void test_not_there(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(cs_import_dir(&f->import, fixture_path(f, "gone"), &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "gone"));
	scratch_write(f->scratch->fd, "file", "");
	assert_int_equal(cs_import_dir(&f->import, fixture_path(f, "file"), &f->err), -ENOTDIR);
	if (geteuid() == 0)
		return;
	assert_int_equal(mkdirat(f->scratch->fd, "from/closed", 0), 0);
	assert_int_equal(import(f), -EACCES);
	assert_non_null(strstr(f->err.text, "from/closed"));
}

/* What is mounted in it stays out: /proc would never end. */
static void test_mounts(void **state)
{
	struct fixture *f = *state;

	/* /dev/shm or /dev/pts is a mount of its own wherever tests run */
	if (cs_import_dir(&f->import, "/dev", &f->err) < 0) {
		print_message("skipped: /dev cannot be read: %s\n", f->err.text);
		skip();
	}
	assert_true(S_ISDIR(fixture_find(f, "pts")->attr.mode));
	assert_int_equal(fixture_find(f, "pts")->entry_count, 0);
	assert_int_equal(fixture_find(f, "null")->attr.device, makedev(1, 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_kinds, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_xattrs, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_sparse, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_too_much, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_deep, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_not_there, make, fixture_remove),
		cmocka_unit_test_setup_teardown(test_mounts, make, fixture_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
