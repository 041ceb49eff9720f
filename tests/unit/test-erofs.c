/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The image as others see it: fsck.erofs, and where we may mount, the kernel. */
#include <errno.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "store/base/num.h"
#include "store/base/own.h"
#include "store/base/run.h"
#include "store/digest.h"
#include "store/erofs.h"
#include "store/loopdev.h"
#include "tests/unit/scratch.h"

struct fixture {
	void *scratch;
	char path[300]; /* of the image */
	int fd;
	struct cs_tree *tree;
	struct cs_image *image;
	int root; /* the mounted image, -1: not */
};

static int make(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct scratch *scratch;

	assert_non_null(f);
	scratch_make(&f->scratch);
	scratch = f->scratch;
	snprintf(f->path, sizeof(f->path), "%s/image", scratch->path);
	f->fd = open(f->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	f->root = -1;
	assert_int_equal(cs_tree_open(&f->tree, NULL), 0);
	assert_int_equal(cs_image_open(f->fd, CS_EROFS_SKIP, CS_GIB, &f->image, NULL), 0);
	*state = f;
	return 0;
}

static int unmake(void **state)
{
	struct fixture *f = *state;

	cs_fd_closep(&f->root);
	cs_image_free(f->image);
	cs_tree_free(f->tree);
	close(f->fd);
	scratch_remove(&f->scratch);
	free(f);
	return 0;
}

static struct cs_node *add(struct fixture *f, const char *path, mode_t mode, const char *target)
{
	const struct cs_attr attr = {
		.mode = mode,
		.uid = 0xfffffffe,
		.gid = 1234567,
		.device = makedev(0xabc, 0x54321),
		.mtime = { .tv_sec = 1000000000, .tv_nsec = 123456789 },
	};
	const struct cs_tree_item item = { .path = path, .target = target, .attr = &attr };
	struct cs_node *node = NULL;

	assert_int_equal(cs_tree_add(f->tree, &item, &node, NULL), 0);
	return node;
}

static void add_file(struct fixture *f, const char *path, const void *data, uint64_t bytes)
{
	struct cs_node *node = add(f, path, S_IFREG | 0640, NULL);

	assert_int_equal(cs_image_file_begin(f->image, node, bytes, NULL), 0);
	assert_int_equal(cs_image_file_data(f->image, 0, data, bytes, NULL), 0);
	assert_int_equal(cs_image_file_end(f->image, NULL), 0);
}

/* Make the image, let fsck.erofs read all of it, and mount it if we may. */
static void finish(struct fixture *f)
{
	const char *const fsck[] = { "fsck.erofs", "--extract", f->path, NULL };
	cs_auto(cs_fd_closep) int loop = -1, fs = -1, mount_fd = -1;
	struct cs_err err = { 0 };
	char device[CS_LOOPDEV_PATH];
	struct stat st;
	int r;

	r = cs_erofs_finish(f->image, f->fd, f->tree, 2 * CS_MIB, &err);
	if (r < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fstat(f->fd, &st), 0);
	assert_int_equal(st.st_size % (2 * (long)CS_MIB), 0);
	r = cs_run(fsck, "erofs-utils", &err);
	if (r < 0 && r != -ENOENT)
		fail_msg("%s", err.text);

	if (geteuid() || cs_loopdev_attach(f->fd, true, &loop, device, NULL) < 0)
		return;
	fs = fsopen("erofs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return;
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0), 0);
	assert_int_equal(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), 0);
	mount_fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
	assert_true(mount_fd >= 0);
	f->root = cs_steal_fd(&mount_fd);
}

static void must_mount(const struct fixture *f)
{
	if (f->root < 0) {
		print_message("skipped: no root, no loop device or no EROFS in this kernel\n");
		skip();
	}
}

static void expect_stat(const struct fixture *f, const char *path, mode_t mode)
{
	struct stat st;

	assert_int_equal(fstatat(f->root, path, &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(st.st_mode, mode);
	assert_int_equal(st.st_uid, 0xfffffffe);
	assert_int_equal(st.st_gid, 1234567);
	assert_int_equal(st.st_mtim.tv_sec, 1000000000);
	assert_int_equal(st.st_mtim.tv_nsec, 123456789);
	if (S_ISCHR(mode) || S_ISBLK(mode))
		assert_int_equal(st.st_rdev, makedev(0xabc, 0x54321));
}

static void test_kinds(void **state)
{
	static const struct {
		const char *path;
		mode_t mode;
	} kinds[] = {
		{ "suid", S_IFREG | 06755 }, { "none", S_IFREG },
		{ "char", S_IFCHR | 0666 },  { "block", S_IFBLK | 0660 },
		{ "fifo", S_IFIFO | 0600 },  { "sticky", S_IFDIR | 01777 },
		{ "link", S_IFLNK | 0777 },
	};
	struct fixture *f = *state;
	char target[PATH_MAX], got[PATH_MAX + 1];
	static const size_t lengths[] = { 1, 60, 3900, 4031, 4032, 4033, 4095 };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		add(f, kinds[i].path, kinds[i].mode, S_ISLNK(kinds[i].mode) ? "suid" : NULL);
	memset(target, 't', sizeof(target));
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		char name[16];

		target[lengths[i]] = '\0';
		snprintf(name, sizeof(name), "l%zu", lengths[i]);
		add(f, name, S_IFLNK | 0777, target);
		target[lengths[i]] = 't';
	}
	finish(f);
	must_mount(f);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		expect_stat(f, kinds[i].path, kinds[i].mode);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		char name[16];

		snprintf(name, sizeof(name), "l%zu", lengths[i]);
		assert_int_equal(readlinkat(f->root, name, got, sizeof(got)), (ssize_t)lengths[i]);
		assert_memory_equal(got, target, lengths[i] - 1);
	}
}

static void test_contents(void **state)
{
	static const uint64_t lengths[] = { 0, 1, 4095, 4096, 4097, 100000, 3 * CS_MIB + 7 };
	struct fixture *f = *state;
	unsigned char *data = malloc(4 * CS_MIB), *got = malloc(4 * CS_MIB);
	char name[32];
	struct stat st;

	assert_true(data && got);
	for (size_t i = 0; i < 4 * CS_MIB; i++)
		data[i] = (unsigned char)(i * 7 ^ i >> 9);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		snprintf(name, sizeof(name), "d/f%llu", (unsigned long long)lengths[i]);
		add_file(f, name, data, lengths[i]);
	}
	assert_int_equal(cs_tree_link(f->tree, "second", "d/f4097", NULL), 0);
	assert_int_equal(cs_tree_link(f->tree, "d/third", "second", NULL), 0);
	finish(f);
	if (f->root >= 0) {
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			int fd;

			snprintf(name, sizeof(name), "d/f%llu", (unsigned long long)lengths[i]);
			fd = openat(f->root, name, O_RDONLY | O_CLOEXEC);
			assert_true(fd >= 0 && fstat(fd, &st) == 0);
			assert_int_equal(st.st_size, lengths[i]);
			assert_int_equal(read(fd, got, 4 * CS_MIB), (ssize_t)lengths[i]);
			assert_memory_equal(got, data, lengths[i]);
			close(fd);
		}
		assert_int_equal(fstatat(f->root, "second", &st, 0), 0);
		assert_int_equal(st.st_nlink, 3);
		assert_int_equal(st.st_size, 4097);
		assert_int_equal(fstatat(f->root, ".", &st, 0), 0);
		assert_int_equal(st.st_nlink, 3);
		assert_true(st.st_ino > 0);
	}
	free(data);
	free(got);
	must_mount(f);
}

static void test_holes(void **state)
{
	struct fixture *f = *state;
	static char ones[70000];
	char got[64];
	struct cs_node *node;
	int fd;

	memset(ones, '1', sizeof(ones));
	node = add(f, "sparse", S_IFREG | 0600, NULL);
	assert_int_equal(cs_image_file_begin(f->image, node, CS_TIB + 10, NULL), 0);
	assert_int_equal(cs_image_file_data(f->image, 3 * CS_MIB, ones, sizeof(ones), NULL), 0);
	assert_int_equal(cs_image_file_data(f->image, CS_TIB, "end", 3, NULL), 0);
	assert_int_equal(cs_image_file_end(f->image, NULL), 0);
	node = add(f, "hole", S_IFREG | 0600, NULL);
	assert_int_equal(cs_image_file_begin(f->image, node, CS_MIB + 1, NULL), 0);
	assert_int_equal(cs_image_file_end(f->image, NULL), 0);
	add_file(f, "dense", "dense", 5);
	finish(f);
	/* the map is 4 MiB, the data two chunks: nothing of the TiB */
	assert_true(cs_image_tell(f->image) < 12 * CS_MIB);
	must_mount(f);

	fd = openat(f->root, "sparse", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, got, 4, 3 * CS_MIB - 2), 4);
	assert_memory_equal(got, "\0\00011", 4);
	assert_int_equal(pread(fd, got, 4, 3 * CS_MIB + sizeof(ones) - 2), 4);
	assert_memory_equal(got, "11\0\0", 4);
	assert_int_equal(pread(fd, got, 64, CS_TIB - 2), 12);
	assert_memory_equal(got, "\0\0end\0\0\0\0\0\0\0", 12);
	assert_int_equal(pread(fd, got, 4, CS_TIB / 2), 4);
	assert_memory_equal(got, "\0\0\0\0", 4);
	close(fd);
	fd = openat(f->root, "hole", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, got, 4, CS_MIB - 1), 2);
	assert_memory_equal(got, "\0\0", 2);
	close(fd);
	fd = openat(f->root, "dense", O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, got, 9, 0), 5);
	close(fd);
}

/* Names of every byte, and more of them than a block or two hold. */
static void test_large_folders(void **state)
{
	struct fixture *f = *state;
	static const int counts[] = { 1, 100, 300, 20000 };
	char name[300];
	struct stat st;

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		for (int n = 0; n < counts[i]; n++) {
			snprintf(name, sizeof(name), "c%d/%c%d", counts[i], n % 254 + 1, n);
			if (name[strcspn(name, "/") + 1] != '/')
				add(f, name, S_IFREG, NULL);
		}
	}
	memset(name, 'n', NAME_MAX);
	name[NAME_MAX] = '\0';
	add(f, name, S_IFREG, NULL);
	finish(f);
	must_mount(f);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		int slashes = 0;

		for (int n = 0; n < counts[i]; n++) {
			snprintf(name, sizeof(name), "c%d/%c%d", counts[i], n % 254 + 1, n);
			if (name[strcspn(name, "/") + 1] == '/')
				slashes++;
			else
				assert_int_equal(fstatat(f->root, name, &st, 0), 0);
		}
		snprintf(name, sizeof(name), "c%d", counts[i]);
		assert_int_equal(scratch_count(f->root, name), counts[i] - slashes);
	}
	memset(name, 'n', NAME_MAX);
	name[NAME_MAX] = '\0';
	assert_int_equal(fstatat(f->root, name, &st, 0), 0);
	assert_int_equal(fstatat(f->root, "c300/gone", &st, 0), -1);
}

static void expect_xattr(const struct fixture *f, const char *path, const char *name,
			 const void *value, size_t bytes)
{
	static char got[70000];
	char whole[PATH_MAX];

	snprintf(whole, sizeof(whole), "/proc/self/fd/%d/%s", f->root, path);
	assert_int_equal(lgetxattr(whole, name, got, sizeof(got)), (ssize_t)bytes);
	assert_memory_equal(got, value, bytes);
}

static void test_xattrs(void **state)
{
	static const unsigned char acl[] = { 2,   0,   0,   0,   1,   0,   6,  0,   255, 255, 255,
					     255, 2,   0,   7,   0,   42,  0,  0,   0,   4,   0,
					     4,   0,   255, 255, 255, 255, 16, 0,   7,   0,   255,
					     255, 255, 255, 32,  0,   4,   0,  255, 255, 255, 255 };
	static const unsigned char cap[] = { 1, 0, 0, 2, 0, 4, 0, 0, 0, 0,
					     0, 0, 0, 0, 0, 0, 0, 0, 0, 0 };
	struct fixture *f = *state;
	static char large[65535];
	char name[64];
	struct cs_node *node;

	memset(large, 'v', sizeof(large));
	node = add(f, "ping", S_IFREG | 0755, NULL);
	assert_int_equal(cs_tree_xattr(node, "security.capability", cap, sizeof(cap)), 0);
	assert_int_equal(cs_tree_xattr(node, "user.empty", "", 0), 0);
	assert_int_equal(cs_tree_xattr(node, "trusted.t", "abc", 3), 0);
	assert_int_equal(cs_tree_xattr(node, "system.unknown", "x", 1), 0); /* left out */
	node = add(f, "large", S_IFDIR | 0755, NULL);
	assert_int_equal(cs_tree_xattr(node, "user.large", large, 60000), 0);
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "user.%d", i);
		assert_int_equal(cs_tree_xattr(node, name, name, strlen(name)), 0);
	}
	node = add(f, "acl", S_IFREG | 0674, NULL);
	assert_int_equal(cs_tree_xattr(node, "system.posix_acl_access", acl, sizeof(acl)), 0);
	add_file(f, "large/behind", "data", 4);
	node = add(f, "link", S_IFLNK | 0777, "ping");
	assert_int_equal(cs_tree_xattr(node, "trusted.link", "yes", 3), 0);
	finish(f);
	must_mount(f);
	expect_xattr(f, "ping", "security.capability", cap, sizeof(cap));
	expect_xattr(f, "ping", "user.empty", "", 0);
	expect_xattr(f, "ping", "trusted.t", "abc", 3);
	expect_xattr(f, "large", "user.large", large, 60000);
	for (int i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "user.%d", i);
		expect_xattr(f, "large", name, name, strlen(name));
	}
	expect_xattr(f, "acl", "system.posix_acl_access", acl, sizeof(acl));
	expect_xattr(f, "link", "trusted.link", "yes", 3);
	assert_int_equal(scratch_count(f->root, "large"), 1);
}

static void test_too_many_xattrs(void **state)
{
	struct fixture *f = *state;
	struct cs_node *node = add(f, "x", S_IFREG | 0755, NULL);
	static char large[65535];
	struct cs_err err = { 0 };

	for (int i = 0; i < 5; i++) {
		char name[24];

		snprintf(name, sizeof(name), "user.%d", i);
		assert_int_equal(cs_tree_xattr(node, name, large, sizeof(large)), 0);
	}
	assert_int_equal(cs_erofs_finish(f->image, f->fd, f->tree, 4096, &err), -E2BIG);
	assert_string_not_equal(err.text, "");
}

static void build_once(void **state, char digest[CS_DIGEST_TEXT])
{
	struct fixture *f = *state;
	struct stat st;

	add_file(f, "a/b", "hello", 5);
	add(f, "c", S_IFLNK | 0777, "a/b");
	assert_int_equal(cs_tree_link(f->tree, "d", "a/b", NULL), 0);
	assert_int_equal(cs_erofs_finish(f->image, f->fd, f->tree, 4096, NULL), 0);
	assert_int_equal(fstat(f->fd, &st), 0);
	assert_int_equal(cs_digest_file(f->fd, (uint64_t)st.st_size, NULL, digest, NULL), 0);
}

static void test_same_bytes(void **state)
{
	char first[CS_DIGEST_TEXT], second[CS_DIGEST_TEXT];
	void *other = NULL;

	make(&other);
	build_once(state, first);
	build_once(&other, second);
	unmake(&other);
	assert_string_equal(first, second);
}

static void test_empty(void **state)
{
	struct fixture *f = *state;

	finish(f);
	must_mount(f);
	assert_int_equal(scratch_count(f->root, "."), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_empty, make, unmake),
		cmocka_unit_test_setup_teardown(test_kinds, make, unmake),
		cmocka_unit_test_setup_teardown(test_contents, make, unmake),
		cmocka_unit_test_setup_teardown(test_holes, make, unmake),
		cmocka_unit_test_setup_teardown(test_large_folders, make, unmake),
		cmocka_unit_test_setup_teardown(test_xattrs, make, unmake),
		cmocka_unit_test_setup_teardown(test_too_many_xattrs, make, unmake),
		cmocka_unit_test_setup_teardown(test_same_bytes, make, unmake),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
