/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the store needs of libarchive besides importing archives: one compressed stream unpacked,
 * and a cpio written. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

/* Takes unpacked bytes in order; 0 to go on, anything else ends the unpacking and is returned. */
typedef int (*cs_archive_fn)(void *arg, const void *data, size_t bytes, struct cs_err *err);

struct cs_archive_stream {
	int fd; /* lent */
	uint64_t offset, bytes;
	uint64_t max_bytes; /* unpacked */
};

/* Unpack a stretch of a file, compressed by gzip, bzip2, lzma, xz, lz4 or zstd, or not at all.
 * -EINVAL: damaged, -EFBIG: over (max_bytes). */
int cs_archive_unpack(const struct cs_archive_stream *stream, cs_archive_fn fn, void *arg,
		      struct cs_err *err);

/* A cpio archive (newc), uncompressed, in which everything belongs to root and has no time: the
 * same contents give the same bytes. */
struct cs_cpio;
int cs_cpio_open(int fd, struct cs_cpio **ret, struct cs_err *err);
/* Errors of these stick, and come out of cs_cpio_finish() with words. */
int cs_cpio_folder(struct cs_cpio *cpio, const char *path);
int cs_cpio_file(struct cs_cpio *cpio, const char *path, unsigned mode, const void *data,
		 size_t bytes);
int cs_cpio_finish(struct cs_cpio *cpio, struct cs_err *err);
struct cs_cpio *cs_cpio_free(struct cs_cpio *cpio);
CS_DEFINE_AUTO(cs_cpio);
