/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A new file that shares what it has in common with an old one: written front to back, and wherever
 * a run of 4 KiB blocks is one of the old file's, its blocks are cloned (FICLONERANGE) instead of
 * written.
 *
 * Cloned at once, not deduplicated when all is written: an extent of Btrfs is kept whole as long as
 * a block of it is in use, so what the rest of an extent was is not given back. Of a Debian root
 * with two more packages that was 176 MiB of 228, by cloning it is 2.7 (docs/measuring.md). */
#pragma once

#include <stdint.h>

#include "store/base/own.h"

struct cs_share;

/* What became of the blocks that were given to cs_share_write(). */
struct cs_share_count {
	uint64_t shared_bytes; /* cloned */
	uint64_t new_bytes;    /* written */
	uint64_t runs;         /* clones */
};

/* Learn all blocks of (old_fd), lent and never written to meanwhile, from its first (bytes). Reads
 * all of it; holds at most 32 MiB, so that of a file over 8 GiB only some runs are found. -errno of
 * a read, -ENOMEM. */
int cs_share_open(int old_fd, uint64_t bytes, struct cs_share **ret);

/* Put (bytes) of (data) at (offset) of the file (fd), by clones and writes. In ascending order; a
 * run may be put off until it ends. Where cloning does not work, all is written. */
int cs_share_write(struct cs_share *share, int fd, const void *data, uint64_t bytes,
		   uint64_t offset);

/* Put what was put off. */
int cs_share_flush(struct cs_share *share, int fd);

/* All of the file (from_fd) into (fd), empty and of another file of the same file system; holes are
 * kept. Flushes. */
int cs_share_copy(struct cs_share *share, int from_fd, uint64_t bytes, int fd);

void cs_share_count(const struct cs_share *share, struct cs_share_count *ret);

struct cs_share *cs_share_free(struct cs_share *share);
CS_DEFINE_AUTO(cs_share);
