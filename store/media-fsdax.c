/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parts as files on ext4 or xfs that is mounted with -o dax:
 * <place>/clearstore-<id>/<name>.<random>, mapped straight from the medium, so that the host has no
 * copy of them in its page cache. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/media-private.h"

#define STEP_BYTES (UINT64_C(1) << 20)
#define MAKE_TRIES 10

/* Is (fd) on DAX, now? A mount option may have gone since it was made. */
static int check_dax(int fd, const char *path, struct cs_err *err)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &st) < 0)
		return cs_fail_errno(err, errno, "'%s'", path);
	if (!(st.stx_attributes & STATX_ATTR_DAX))
		return cs_fail(err, EOPNOTSUPP,
			       "'%s' is not on DAX (an ext4 or xfs on a pmem device, mounted with "
			       "-o dax)",
			       path);
	return 0;
}

static int open_fsdax(const struct cs_manifest_part *part, struct cs_view *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct stat st;
	int r;

	fd = open(part->where, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return cs_fail(
			err, ENODEV,
			"lies at '%s', which is not there (mount its file system with -o dax)",
			part->where);
	if (fd < 0 || fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "lies at '%s'", part->where);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != part->bytes)
		return cs_fail(
			err, EBADMSG,
			"lies at '%s', which is not the file of %llu bytes that the manifest "
			"promises",
			part->where, (unsigned long long)part->bytes);
	r = check_dax(fd, part->where, err);
	if (r < 0)
		return r;
	*ret = (struct cs_view){ .fd = cs_steal_fd(&fd),
				 .bytes = part->bytes,
				 .media = CS_MEDIA_FSDAX };
	return 0;
}

/* Which of the two is full, the store or the medium, is not to be guessed. */
static int fail_write(int r, const char *path, struct cs_err *err)
{
	if (r == -ENOSPC || r == -EDQUOT)
		return cs_fail(err, -r,
			       "no room in '%s' (remove a template that lies there, or make room "
			       "on that medium)",
			       path);
	return cs_fail_errno(err, -r, "cannot write to '%s'", path);
}

/* The folder of the store (id) at (place), made when (make). */
static int open_folder(const char *id, const char *place, bool make, char path[CS_MEDIA_WHERE],
		       struct cs_err *err)
{
	int fd;

	if ((size_t)snprintf(path, CS_MEDIA_WHERE, "%s/clearstore-%s", place, id) >=
	    CS_MEDIA_WHERE - CS_MEDIA_NAME)
		return cs_fail(err, ENAMETOOLONG, "'%.200s': too long", place);
	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return errno == ENOSPC || errno == EDQUOT
			       ? fail_write(-errno, path, err)
			       : cs_fail_errno(err, errno, "cannot make '%s'", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? cs_fail_errno(err, errno, "'%s'", path) : fd;
}

static int copy(const struct cs_media_piece *piece, int fd, bool compare)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(2 * STEP_BYTES);
	uint64_t part;
	int r = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; at < piece->bytes && r == 0; at += part) {
		part = piece->bytes - at < STEP_BYTES ? piece->bytes - at : STEP_BYTES;
		r = cs_pread_full(piece->from_fd, buf, part, at);
		if (r == 0 && compare)
			r = cs_pread_full(fd, buf + STEP_BYTES, part, at);
		if (r == 0 && compare && memcmp(buf, buf + STEP_BYTES, part) != 0)
			r = -EIO;
		/* written, not left out: a hole would be allocated under a guest that reads it */
		if (r == 0 && !compare)
			r = cs_pwrite_full(fd, buf, part, at);
	}
	return r;
}

/* A file that is ours before a sweep can take it for a dead command's. */
static int make_file(int dirfd, const char *name, int *ret)
{
	struct stat st;

	for (int i = 0; i < MAKE_TRIES; i++) {
		cs_auto(cs_fd_closep) int fd = -1;

		if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
			return -errno;
		fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
		if (fd < 0 || flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
			return -errno;
		if (!st.st_nlink)
			continue;
		*ret = cs_steal_fd(&fd);
		return 0;
	}
	return -EBUSY;
}

/* Under a name that no file there ever had: one that was (piece)'s may by now be the only copy of
 * another template, which was made of that one and outlived it. */
static int make_name(const struct cs_media_piece *piece, char ret[CS_MEDIA_NAME],
		     struct cs_err *err)
{
	uint32_t random;

	if (getentropy(&random, sizeof(random)) < 0)
		return cs_fail_errno(err, errno, "no random numbers");
	if (snprintf(ret, CS_MEDIA_NAME, "%s.%08x", piece->name, random) >= CS_MEDIA_NAME)
		return cs_fail(err, ENAMETOOLONG, "'%.200s': too long", piece->name);
	return 0;
}

/* What fails leaves (name) or (fresh), or neither. */
static int fill_file(int dirfd, const struct cs_media_piece *piece, const char *fresh,
		     const char *name, int fd)
{
	int r;

	r = copy(piece, fd, false);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0)
		r = copy(piece, fd, true);
	if (r == 0 && renameat2(dirfd, fresh, dirfd, name, RENAME_NOREPLACE) < 0)
		r = -errno;
	return r < 0 ? r : cs_sync_dir(dirfd);
}

static int fill(int dirfd, const char *path, const struct cs_media_piece *piece, const char *name,
		int *ret, struct cs_err *err)
{
	char fresh[CS_MEDIA_NAME + 8];
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	snprintf(fresh, sizeof(fresh), ".%s.new", name);
	r = make_file(dirfd, fresh, &fd);
	if (r < 0)
		return fail_write(r, path, err);
	r = check_dax(fd, path, err);
	if (r == 0) {
		r = fill_file(dirfd, piece, fresh, name, fd);
		if (r < 0)
			fail_write(r, path, err);
	}
	if (r < 0) {
		unlinkat(dirfd, fresh, 0);
		unlinkat(dirfd, name, 0);
		return r;
	}
	*ret = cs_steal_fd(&fd);
	return 0;
}

static int place_fsdax(const char *id, const char *place, const struct cs_media_piece *piece,
		       struct cs_manifest_part *part, int *ret_fd, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1, fd = -1;
	char path[CS_MEDIA_WHERE], name[CS_MEDIA_NAME];
	struct stat st;
	int r;

	r = make_name(piece, name, err);
	if (r < 0)
		return r;
	dirfd = open_folder(id, place, true, path, err);
	if (dirfd < 0)
		return dirfd;
	r = fill(dirfd, path, piece, name, &fd, err);
	if (r < 0) {
		rmdir(path); /* when it was made for this, it is empty */
		return r;
	}
	if (fstat(fd, &st) < 0)
		return cs_fail_errno(err, errno, "'%s'", path);
	part->media = CS_MEDIA_FSDAX;
	part->stored_bytes = (uint64_t)st.st_blocks * 512;
	part->offset = 0;
	snprintf(part->where, sizeof(part->where), "%.*s/%.*s", CS_MEDIA_WHERE - CS_MEDIA_NAME - 2,
		 path, CS_MEDIA_NAME - 1, name);
	*ret_fd = cs_steal_fd(&fd);
	return 0;
}

/* Nobody holds it, no version has it: then it is a dead command's or a removed version's. */
static void sweep_file(int dirfd, const char *name, const struct cs_media_kept *kept)
{
	cs_auto(cs_fd_closep) int fd =
		openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && !kept->find(name, 0, kept->arg))
		unlinkat(dirfd, name, 0);
}

static int sweep_fsdax(const char *id, const char *place, const struct cs_media_kept *kept,
		       struct cs_err *err)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	char path[CS_MEDIA_WHERE];
	struct dirent *entry;
	int dirfd;

	dirfd = open_folder(id, place, false, path, err);
	if (dirfd == -ENOENT)
		return 0;
	if (dirfd < 0)
		return dirfd;
	dir = fdopendir(dirfd);
	while (dir && (entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			sweep_file(dirfd, entry->d_name, kept);
	}
	return 0;
}

static void place_of_fsdax(const struct cs_manifest_part *part, char ret[CS_MEDIA_WHERE])
{
	char *slash;

	/* <place>/clearstore-<id>/<name> */
	snprintf(ret, CS_MEDIA_WHERE, "%s", part->where);
	for (int i = 0; i < 2; i++) {
		slash = strrchr(ret, '/');
		if (slash)
			*slash = '\0';
	}
}

const struct cs_media_ops cs_media_fsdax = {
	.prefix = "fsdax:",
	.kind = CS_MEDIA_FSDAX,
	.open = open_fsdax,
	.place = place_fsdax,
	.sweep = sweep_fsdax,
	.place_of = place_of_fsdax,
};
