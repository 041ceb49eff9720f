/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Work on a disk file that may take its time: by io_uring, completed in the loop; or, where the
 * host has none (kernel.io_uring_disabled, a seccomp filter, an old kernel), done on the spot. The
 * only owner of liburing.
 *
 * A job that finds no room (-ENOSPC) waits until there is some, and is tried every second: a guest
 * then stands still where it writes, and loses nothing. What is over the guest's own limit
 * (-EDQUOT) fails. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "vmm/loop.h"

#define CS_DISK_IO_DEPTH 128u /* jobs under way at once */

enum cs_disk_work {
	CS_DISK_READ,
	CS_DISK_WRITE,
	CS_DISK_FLUSH,      /* what was written before lasts */
	CS_DISK_PUNCH,      /* give the space back; reads as zero. -EOPNOTSUPP: not this file */
	CS_DISK_ZERO_HOLE,  /* reads as zero, the space may be given back */
	CS_DISK_ZERO_RANGE, /* reads as zero, the space stays */
};

struct cs_disk_job {
	enum cs_disk_work work;
	uint64_t offset, bytes;  /* of the file; (iov) holds at least (bytes) */
	const struct iovec *iov; /* copied; what it points to must stay until the job is done */
	unsigned pieces;
	bool lasting; /* write-through: done means on the medium */

	/* The caller's own, handed back. */
	uint16_t tag;
	unsigned char *status;
	uint64_t used;
};

struct cs_disk_io;

struct cs_disk_io_spec {
	int fd; /* lent */
	/* Lent; on the file system under the one of (fd), when that is a sparse image: jobs that
	 * take room wait while it is nearly full too. -1: there is none. */
	int under_fd;
	struct cs_loop *loop; /* lent */
	/* (job) ended: 0 or -errno; -EIO also where the file ends too early. (job)'s iov is gone.
	 */
	void (*done)(void *arg, const struct cs_disk_job *job, int result);
	/* After some of these: time to notify, to begin more, and to call _submit. */
	void (*turn)(void *arg);
	void *arg;
};

int cs_disk_io_create(const struct cs_disk_io_spec *spec, struct cs_disk_io **ret,
		      struct cs_err *err);

/* -EINPROGRESS: under way after the next cs_disk_io_submit(), done() will come; 0 or another
 * -errno: it ended here and now. Not to be called when full. */
int cs_disk_io_begin(struct cs_disk_io *io, const struct cs_disk_job *job);
bool cs_disk_io_full(const struct cs_disk_io *io);

/* Hand over what was begun. -EAGAIN: the kernel did not take all of it; call again soon. */
int cs_disk_io_submit(struct cs_disk_io *io);

bool cs_disk_io_busy(
	const struct cs_disk_io *io); /* a job is under way, in the kernel or waiting */

/* A job waits for room. */
bool cs_disk_io_waits(const struct cs_disk_io *io);

/* Wait until nothing is under way but what waits for room, as long as the disk takes: done() comes
 * for each job as ever, then turn(). */
void cs_disk_io_settle(struct cs_disk_io *io);

/* Forget all jobs: those not begun are cancelled, the others waited for (as long as the disk
 * takes), and done() comes for none. After it the kernel touches none of their memory. */
void cs_disk_io_drain(struct cs_disk_io *io);

bool cs_disk_io_async(const struct cs_disk_io *io); /* io_uring it is */

struct cs_disk_io *cs_disk_io_free(struct cs_disk_io *io); /* drains */
CS_DEFINE_AUTO(cs_disk_io);
