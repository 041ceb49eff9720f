/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/import.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <search.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "store/base/num.h"

/* One descriptor is open per level. */
#define DEPTH_MAX 256

#define READ_BYTES (UINT64_C(1) << 20)

#define WANTED (STATX_BASIC_STATS | STATX_MNT_ID)

/* A file with several names: where its first one led. */
struct linked {
	uint64_t dev, ino;
	struct cs_node *node;
};

struct walk {
	struct cs_import *import;
	struct cs_err *err;
	uint64_t mount; /* of the source: what is mounted in it stays out */
	void *linked;   /* tsearch(3) tree */
	unsigned char *buf;
	char path[PATH_MAX]; /* for words */
};

static int by_inode(const void *a, const void *b)
{
	const struct linked *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int fail_here(struct walk *walk, int code, const char *what)
{
	return cs_fail_errno(walk->err, code, "cannot %s '%.300s'", what, walk->path);
}

static struct cs_attr attr_of(const struct statx *st)
{
	return (struct cs_attr){
		.mode = st->stx_mode,
		.uid = st->stx_uid,
		.gid = st->stx_gid,
		.device = makedev(st->stx_rdev_major, st->stx_rdev_minor),
		.mtime = { .tv_sec = st->stx_mtime.tv_sec, .tv_nsec = st->stx_mtime.tv_nsec },
	};
}

/* ---- contents ---- */

static int copy_range(struct cs_import *import, int fd, uint64_t at, uint64_t end,
		      unsigned char *buf, struct cs_err *err)
{
	uint64_t part;
	ssize_t n;
	int r;

	while (at < end) {
		part = end - at < READ_BYTES ? end - at : READ_BYTES;
		n = pread(fd, buf, part, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cs_fail_errno(err, errno, "cannot be read");
		if (n == 0)
			return cs_fail(err, EAGAIN, "became shorter while it was read");
		r = cs_image_file_data(import->image, at, buf, (uint64_t)n, err);
		if (r < 0)
			return r;
		at += (uint64_t)n;
		import->input_bytes += (uint64_t)n;
		cs_progress_set(import->progress, import->input_bytes);
	}
	return 0;
}

static int copy_sparse(struct cs_import *import, int fd, uint64_t bytes, unsigned char *buf,
		       struct cs_err *err)
{
	off_t at = 0, end;
	int r;

	for (;;) {
		at = lseek(fd, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			return 0; /* a hole to the end */
		end = at < 0 ? -1 : lseek(fd, at, SEEK_HOLE);
		if (end < 0)
			return copy_range(import, fd, 0, bytes, buf, err); /* cannot tell */
		if ((uint64_t)at >= bytes)
			return 0;
		r = copy_range(import, fd, (uint64_t)at,
			       (uint64_t)end < bytes ? (uint64_t)end : bytes, buf, err);
		if (r < 0)
			return r;
		at = end;
	}
}

static int copy_file(struct cs_import *import, struct cs_node *node, int fd, unsigned char *buf,
		     struct cs_err *err)
{
	struct stat st;
	uint64_t bytes;
	int r;

	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "cannot be read");
	if (!S_ISREG(st.st_mode))
		return cs_fail(err, EAGAIN, "changed its kind while it was read");
	bytes = (uint64_t)st.st_size;
	r = cs_image_file_begin(import->image, node, bytes, err);
	if (r < 0)
		return r;
	if ((uint64_t)st.st_blocks * 512 < bytes)
		r = copy_sparse(import, fd, bytes, buf, err);
	else
		r = copy_range(import, fd, 0, bytes, buf, err);
	return r < 0 ? r : cs_image_file_end(import->image, err);
}

int cs_import_file(struct cs_import *import, struct cs_node *node, int fd, struct cs_err *err)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(READ_BYTES);

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "cannot be read");
	return copy_file(import, node, fd, buf, err);
}

/* ---- extended attributes ---- */

/* By descriptor where there is one, by path otherwise: devices and links cannot be opened. */
struct source {
	int fd;
	const char *path;
};

static ssize_t list_of(const struct source *from, char *list, size_t room)
{
	return from->fd >= 0 ? flistxattr(from->fd, list, room)
			     : llistxattr(from->path, list, room);
}

static ssize_t value_of(const struct source *from, const char *name, void *value, size_t room)
{
	return from->fd >= 0 ? fgetxattr(from->fd, name, value, room)
			     : lgetxattr(from->path, name, value, room);
}

static int take_xattrs(struct walk *walk, const struct source *from, struct cs_node *node)
{
	/* what the kernel allows at most: XATTR_LIST_MAX, XATTR_SIZE_MAX; both fit the buffer */
	char *list = (char *)walk->buf;
	unsigned char *value = walk->buf + 65536;
	ssize_t n, bytes;
	int r;

	n = list_of(from, list, 65536);
	if (n < 0 && errno != EOPNOTSUPP)
		return fail_here(walk, errno, "read the extended attributes of");
	for (char *name = list; n > 0 && name < list + n; name += strlen(name) + 1) {
		bytes = value_of(from, name, value, 65536);
		if (bytes < 0 && errno == ENODATA)
			continue; /* taken off meanwhile */
		if (bytes < 0)
			return fail_here(walk, errno, "read the extended attributes of");
		r = cs_tree_xattr(node, name, value, (size_t)bytes);
		if (r < 0)
			return fail_here(walk, -r, "take in");
	}
	return 0;
}

/* ---- the walk ---- */

static int walk_folder(struct walk *walk, int dirfd, struct cs_node *dir, unsigned depth);

/* A further name of a file that came in already: 1. Otherwise remember (node) for it. */
static int check_linked(struct walk *walk, const struct statx *st, struct cs_node *node,
			struct cs_node **ret)
{
	struct linked *link;
	void *found;

	if (st->stx_nlink < 2 || S_ISDIR(st->stx_mode))
		return 0;
	link = malloc(sizeof(*link));
	if (!link)
		return fail_here(walk, ENOMEM, "take in");
	*link = (struct linked){
		.dev = makedev(st->stx_dev_major, st->stx_dev_minor),
		.ino = st->stx_ino,
		.node = node,
	};
	found = node ? tsearch(link, &walk->linked, by_inode)
		     : tfind(link, &walk->linked, by_inode);
	if (node && !found) {
		free(link);
		return fail_here(walk, ENOMEM, "take in");
	}
	if (!node)
		free(link);
	if (found)
		*ret = (*(struct linked **)found)->node;
	return found && !node;
}

static int take_regular(struct walk *walk, int dirfd, const char *name, struct cs_node *node)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct source from;
	int r;

	/* O_NONBLOCK: a FIFO that took the file's place must not hold us */
	fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return fail_here(walk, errno, "read");
	r = copy_file(walk->import, node, fd, walk->buf, walk->err);
	if (r < 0)
		return cs_fail_in(walk->err, r, "'%.300s'", walk->path);
	from = (struct source){ .fd = fd };
	return take_xattrs(walk, &from, node);
}

static int take_other(struct walk *walk, int dirfd, const char *name, struct cs_node *node)
{
	char path[NAME_MAX + 48];
	const struct source from = { .fd = -1, .path = path };

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dirfd, name);
	return take_xattrs(walk, &from, node);
}

static int take_subfolder(struct walk *walk, int dirfd, const char *name, struct cs_node *node,
			  unsigned depth)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct source from;
	int r;

	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fail_here(walk, errno, "read");
	from = (struct source){ .fd = fd };
	r = take_xattrs(walk, &from, node);
	return r < 0 ? r : walk_folder(walk, fd, node, depth + 1);
}

static int take(struct walk *walk, int dirfd, struct cs_node *dir, const char *name, unsigned depth)
{
	struct cs_tree_item item = { .path = name };
	struct cs_node *node = NULL;
	char target[PATH_MAX];
	struct cs_attr attr;
	struct statx st;
	ssize_t n;
	int r;

	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW, WANTED, &st) < 0)
		return errno == ENOENT ? 0 : fail_here(walk, errno, "read");
	if (S_ISSOCK(st.stx_mode))
		return 0;
	walk->import->files++;
	r = check_linked(walk, &st, NULL, &node);
	if (r)
		return r < 0 ? r : cs_tree_link_in(walk->import->tree, dir, name, node, walk->err);

	attr = attr_of(&st);
	item.attr = &attr;
	if (S_ISLNK(st.stx_mode)) {
		n = readlinkat(dirfd, name, target, sizeof(target) - 1);
		if (n < 0)
			return fail_here(walk, errno, "read");
		target[n] = '\0';
		item.target = target;
	}
	r = cs_tree_add_in(walk->import->tree, dir, &item, &node, walk->err);
	if (r == 0)
		r = check_linked(walk, &st, node, &node);
	if (r < 0)
		return r;
	if (S_ISREG(st.stx_mode))
		return take_regular(walk, dirfd, name, node);
	if (!S_ISDIR(st.stx_mode))
		return take_other(walk, dirfd, name, node);
	if (st.stx_mnt_id != walk->mount)
		return 0; /* something else is mounted here: an empty folder in the guest */
	return take_subfolder(walk, dirfd, name, node, depth);
}

static int walk_folder(struct walk *walk, int dirfd, struct cs_node *dir, unsigned depth)
{
	cs_auto(cs_dir_closep) DIR *entries = NULL;
	size_t length = strlen(walk->path), more;
	struct dirent *entry;
	int copy, r;

	if (depth > DEPTH_MAX)
		return cs_fail(walk->err, EMLINK, "'%.300s': over %d folders deep", walk->path,
			       DEPTH_MAX);
	copy = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	entries = copy < 0 ? NULL : fdopendir(copy);
	if (!entries)
		return fail_here(walk, errno, "read");
	for (;;) {
		errno = 0;
		entry = readdir(entries);
		if (!entry)
			return errno ? fail_here(walk, errno, "read") : 0;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		more = strlen(entry->d_name) + 1;
		if (length + more < sizeof(walk->path)) {
			walk->path[length] = '/';
			memcpy(walk->path + length + 1, entry->d_name, more);
		}
		r = take(walk, dirfd, dir, entry->d_name, depth);
		if (r < 0)
			return r;
		walk->path[length] = '\0';
	}
}

static int import_root(struct walk *walk, const char *path)
{
	struct cs_node *root = cs_tree_root(walk->import->tree);
	cs_auto(cs_fd_closep) int fd = -1;
	struct source from;
	struct statx st;
	int r;

	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, WANTED, &st) < 0)
		return fail_here(walk, errno, "read");
	walk->mount = st.stx_mnt_id;
	root->attr = attr_of(&st);
	from = (struct source){ .fd = fd };
	r = take_xattrs(walk, &from, root);
	return r < 0 ? r : walk_folder(walk, fd, root, 0);
}

int cs_import_dir(struct cs_import *import, const char *path, struct cs_err *err)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(READ_BYTES);
	struct walk walk = { .import = import, .err = err, .buf = buf };
	size_t bytes = strlen(path);
	int r;

	if (!buf)
		return cs_fail_errno(err, ENOMEM, "cannot read '%.300s'", path);
	while (bytes > 1 && path[bytes - 1] == '/')
		bytes--;
	if (bytes >= sizeof(walk.path))
		return cs_fail_errno(err, ENAMETOOLONG, "cannot read '%.300s'", path);
	memcpy(walk.path, path, bytes);
	r = import_root(&walk, path);
	tdestroy(walk.linked, free);
	return r;
}
