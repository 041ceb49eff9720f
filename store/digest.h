/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SHA-256 of a part (libcrypto; its only owner). */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/progress.h"

#define CS_DIGEST_TEXT 65 /* 64 hex digits and a NUL */

/* Digest of the first (bytes) of (fd), its offset untouched, as lower-case hex. (progress) may be
 * NULL; it is set to (done) plus what has been hashed. -ENODATA: the file is shorter. */
struct cs_digest_progress {
	struct cs_progress *progress;
	uint64_t done;
};
int cs_digest_file(int fd, uint64_t bytes, const struct cs_digest_progress *progress,
		   char ret[CS_DIGEST_TEXT], struct cs_err *err);

/* Digest of (bytes) of memory. */
int cs_digest_memory(const void *data, uint64_t bytes, char ret[CS_DIGEST_TEXT],
		     struct cs_err *err);

/* Digest of a file that is mostly holes: of its blocks of 4 KiB that are not all zero, each after
 * its number in the file as 8 bytes, low byte first. So 8 GiB of nothing cost nothing, and how a
 * file system keeps the holes does not matter. A last part of a block counts as filled with
 * zeroes. */
int cs_digest_sparse(int fd, uint64_t bytes, char ret[CS_DIGEST_TEXT], struct cs_err *err);
