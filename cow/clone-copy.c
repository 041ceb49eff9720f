/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/clone-private.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/num.h"
#include "store/base/own.h"

#define BLOCK_BYTES (64 * CS_KIB)

struct copy {
	int source_fd, fd;
	char *block;    /* BLOCK_BYTES */
	bool by_kernel; /* copy_file_range() works here */
};

/* Copy by hand, and leave out blocks of zeroes: the file was made by ftruncate(), so they are
 * there. */
static int copy_by_hand(const struct copy *c, uint64_t offset, uint64_t end)
{
	size_t n;
	int r;

	for (; offset < end; offset += n) {
		n = end - offset < BLOCK_BYTES ? (size_t)(end - offset) : (size_t)BLOCK_BYTES;
		r = cs_pread_full(c->source_fd, c->block, n, offset);
		if (r < 0)
			return r;
		/* all zero: the first byte is, and each is like the one before */
		if (!c->block[0] && !memcmp(c->block, c->block + 1, n - 1))
			continue;
		r = cs_pwrite_full(c->fd, c->block, n, offset);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_stretch(struct copy *c, uint64_t offset, uint64_t end)
{
	off_t from = (off_t)offset, to = (off_t)offset;
	ssize_t n;

	while (c->by_kernel && (uint64_t)from < end) {
		n = copy_file_range(c->source_fd, &from, c->fd, &to, end - (uint64_t)from, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP ||
			      errno == ENOSYS || errno == EPERM))
			c->by_kernel = false;
		else if (n < 0)
			return -errno;
		else if (n == 0)
			return -ENODATA; /* it became shorter under our hands */
	}
	return copy_by_hand(c, (uint64_t)from, end);
}

/* Stretch by stretch of data. A file system that knows no holes calls all of it data. */
static int copy_data(struct copy *c, uint64_t bytes)
{
	off_t data, hole = 0;
	int r;

	while ((uint64_t)hole < bytes) {
		data = lseek(c->source_fd, hole, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			return 0; /* a hole up to the end */
		if (data < 0)
			return -errno;
		hole = lseek(c->source_fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if (hole <= data)
			return -EIO; /* cannot be, and would not end */
		if ((uint64_t)hole > bytes)
			hole = (off_t)bytes;
		r = copy_stretch(c, (uint64_t)data, (uint64_t)hole);
		if (r < 0)
			return r;
	}
	return 0;
}

static int copy_file(int source_fd, int fd)
{
	cs_auto(cs_mem_freep) char *block = malloc(BLOCK_BYTES);
	struct copy c = { .source_fd = source_fd, .fd = fd, .block = block };
	struct stat st;
	off_t hole;

	if (!block)
		return -ENOMEM;
	if (fstat(source_fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (ftruncate(fd, st.st_size) < 0)
		return -errno;
	/* Sparse by its blocks, and yet no hole to be found: then the holes would come out as
	 * zeroes written by copy_file_range(). */
	hole = lseek(source_fd, 0, SEEK_HOLE);
	c.by_kernel = !(hole == st.st_size && (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size);
	if (hole < 0) /* no SEEK_HOLE at all: all of it, by hand */
		return st.st_size ? copy_by_hand(&c, 0, (uint64_t)st.st_size) : 0;
	return copy_data(&c, (uint64_t)st.st_size);
}

static int clone_file(int source_fd, int dirfd, const char *name, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	r = cs_clone_make(dirfd, name, &fd, err);
	if (r < 0)
		return r;
	r = copy_file(source_fd, fd);
	if (r == 0)
		return 0;
	unlinkat(dirfd, name, 0);
	return cs_fail_errno(err, -r, "cannot copy '%s'", name);
}

const struct cs_clone cs_clone_copy = {
	.name = "copy",
	.clone_file = clone_file,
};
