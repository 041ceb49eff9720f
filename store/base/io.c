/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/own.h"

#define PUBLISH_TRIES 1000

int cs_read_full(int fd, void *buf, size_t bytes)
{
	char *p = buf;
	ssize_t n;

	while (bytes) {
		n = read(fd, p, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int cs_write_full(int fd, const void *buf, size_t bytes)
{
	const char *p = buf;
	ssize_t n;

	while (bytes) {
		n = write(fd, p, bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* not seen on Linux; without this it would be a loop */
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int cs_pread_full(int fd, void *buf, size_t bytes, uint64_t offset)
{
	char *p = buf;
	ssize_t n;

	if (offset > INT64_MAX || bytes > INT64_MAX - offset)
		return -EOVERFLOW;
	while (bytes) {
		n = pread(fd, p, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		p += n;
		bytes -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int cs_pwrite_full(int fd, const void *buf, size_t bytes, uint64_t offset)
{
	const char *p = buf;
	ssize_t n;

	if (offset > INT64_MAX || bytes > INT64_MAX - offset)
		return -EOVERFLOW;
	while (bytes) {
		n = pwrite(fd, p, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		p += n;
		bytes -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/* Read to the end of file, also of those of /proc and /sys, which say that they are empty; where
 * (size) is right, there is no need to ask for more. */
static int read_to_end(int fd, off_t size, size_t max, char **ret, size_t *ret_bytes)
{
	cs_auto(cs_mem_freep) char *buf = NULL;
	size_t room = 0, used = 0;
	char *larger;
	ssize_t n;

	for (;;) {
		if (room - used < 2) { /* a byte to read and the NUL */
			room = room ? room * 2 : 4096;
			larger = realloc(buf, room);
			if (!larger)
				return -ENOMEM;
			buf = larger;
		}
		n = read(fd, buf + used, room - used - 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		used += (size_t)n;
		if (used > max)
			return -EFBIG;
		if ((off_t)used == size)
			break;
	}
	buf[used] = '\0';
	*ret = cs_steal(buf);
	if (ret_bytes)
		*ret_bytes = used;
	return 0;
}

int cs_read_file_at(int dirfd, const char *name, size_t max, char **ret, size_t *ret_bytes)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct stat st;

	/* O_NONBLOCK: a FIFO put there in place of the file must not hold us. */
	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	return read_to_end(fd, st.st_size, max, ret, ret_bytes);
}

/* Is the open file (fd) still what (name) leads to? */
static int is_linked(int fd, int dirfd, const char *name)
{
	struct stat ours, there;

	if (fstat(fd, &ours) < 0)
		return -errno;
	if (fstatat(dirfd, name, &there, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	return ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

/* Somebody's (name) is in the way. Its writer holds a lock on it as long as it lives: wait for
 * that, and take the file away if it is still there. */
static int clear_leftover(int dirfd, const char *name)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd >= 0) {
		while (flock(fd, LOCK_EX) < 0) {
			if (errno != EINTR)
				return -errno;
		}
		r = is_linked(fd, dirfd, name);
		if (r <= 0)
			return r;
	}
	/* not to be opened (a link, a socket): nothing of ours writes such */
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

/* Make (name), empty and locked by us. Two writers of one name are put in a row: otherwise the one
 * could rename the other's half-written file. */
static int create_locked(int dirfd, const char *name, mode_t mode, int *ret)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	for (unsigned i = 0; i < PUBLISH_TRIES; i++) {
		cs_fd_closep(&fd);
		fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			    mode);
		if (fd < 0 && errno == EEXIST) {
			r = clear_leftover(dirfd, name);
			if (r < 0)
				return r;
			continue;
		}
		if (fd < 0)
			return -errno;
		while (flock(fd, LOCK_EX) < 0) {
			if (errno != EINTR)
				return -errno;
		}
		r = is_linked(fd, dirfd, name);
		if (r < 0)
			return r;
		if (r > 0) {
			*ret = cs_steal_fd(&fd);
			return 0;
		}
	}
	return -EBUSY;
}

struct publish {
	int dirfd;
	const char *name;
	mode_t mode;
	const void *data;
	size_t bytes;
	bool durable;
};

static int publish_as(const struct publish *p, const char *half)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = create_locked(p->dirfd, half, p->mode, &fd);
	if (r < 0)
		return r;
	r = cs_write_full(fd, p->data, p->bytes);
	if (r == 0 && fchmod(fd, p->mode) < 0) /* whatever the umask took away */
		r = -errno;
	if (r == 0 && p->durable && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(p->dirfd, half, p->dirfd, p->name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(p->dirfd, half, 0);
		return r;
	}
	return p->durable ? cs_sync_dir(p->dirfd) : 0;
}

static int publish(const struct publish *p, struct cs_err *err)
{
	char half[NAME_MAX + 1];
	int n, r;

	if (!p->name[0] || strchr(p->name, '/'))
		return cs_fail(err, EINVAL, "'%s': not the name of a file", p->name);
	n = snprintf(half, sizeof(half), ".%s.new", p->name);
	if (n < 0 || (size_t)n >= sizeof(half))
		return cs_fail_errno(err, ENAMETOOLONG, "cannot write '%.32s...'", p->name);
	r = publish_as(p, half);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot write '%s'", p->name);
	return 0;
}

int cs_publish_at(int dirfd, const char *name, mode_t mode, const void *data, size_t bytes,
		  struct cs_err *err)
{
	const struct publish p = { dirfd, name, mode, data, bytes, true };

	return publish(&p, err);
}

int cs_replace_at(int dirfd, const char *name, mode_t mode, const void *data, size_t bytes,
		  struct cs_err *err)
{
	const struct publish p = { dirfd, name, mode, data, bytes, false };

	return publish(&p, err);
}

int cs_mkdir_at(int dirfd, const char *name, mode_t mode)
{
	struct stat st;

	if (mkdirat(dirfd, name, mode) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	if (fstatat(dirfd, name, &st, 0) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int cs_mkdir_path(int dirfd, const char *path, mode_t mode)
{
	cs_auto(cs_mem_freep) char *copy = NULL;
	char kept, *p;
	int r;

	if (!path[0])
		return -ENOENT;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	p = copy + strspn(copy, "/");
	while (*p) {
		p += strcspn(p, "/");
		kept = *p;
		*p = '\0';
		r = cs_mkdir_at(dirfd, copy, mode);
		if (r < 0)
			return r;
		*p = kept;
		p += strspn(p, "/");
	}
	return 0;
}

int cs_sync_dir(int dirfd)
{
	cs_auto(cs_fd_closep) int fd = -1;

	/* Opened anew: (dirfd) may be AT_FDCWD or O_PATH, which cannot be synced. */
	fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0 && errno != EINVAL) /* EINVAL: this file system has no such thing */
		return -errno;
	return 0;
}

bool cs_missing_at(int dirfd, const char *name)
{
	struct stat st;

	return fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 &&
	       (errno == ENOENT || errno == ENOTDIR);
}
