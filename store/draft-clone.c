/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one file has into another: by sharing, else by copying what is no hole. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/own.h"
#include "store/draft.h"

#define COPY_BYTES (UINT64_C(1) << 20)

/* Between file systems of two kinds, and of a file that counts as none: through memory. */
static int copy_by_hand(int from_fd, uint64_t at, uint64_t end, int to_fd)
{
	cs_auto(cs_mem_freep) unsigned char *buf = malloc(COPY_BYTES);
	uint64_t part;
	int r = buf ? 0 : -ENOMEM;

	for (; at < end && r == 0; at += part) {
		part = end - at < COPY_BYTES ? end - at : COPY_BYTES;
		r = cs_pread_full(from_fd, buf, part, at);
		if (r == 0)
			r = cs_pwrite_full(to_fd, buf, part, at);
	}
	return r;
}

static int copy_data(int from_fd, loff_t at, loff_t end, int to_fd)
{
	loff_t out = at;

	while (at < end) {
		ssize_t n = copy_file_range(from_fd, &at, to_fd, &out, (size_t)(end - at), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EXDEV && errno != EOPNOTSUPP && errno != EINVAL)
			return -errno;
		if (n <= 0)
			return copy_by_hand(from_fd, (uint64_t)at, (uint64_t)end, to_fd);
	}
	return 0;
}

int cs_draft_clone(int from_fd, uint64_t bytes, int to_fd, struct cs_err *err)
{
	off_t data, hole;
	int r = 0;

	if (ioctl(to_fd, FICLONE, from_fd) == 0)
		return 1;
	/* a disk is 8 GiB of holes */
	for (off_t at = 0; (uint64_t)at < bytes && r == 0; at = hole) {
		data = lseek(from_fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(from_fd, data, SEEK_HOLE);
		if (hole < 0 || (uint64_t)hole > bytes)
			hole = (off_t)bytes;
		r = copy_data(from_fd, data < 0 ? at : data, hole, to_fd);
	}
	if (r == 0 && ftruncate(to_fd, (off_t)bytes) < 0)
		r = -errno;
	return r < 0 ? cs_fail_errno(err, -r, "cannot copy it") : 0;
}
