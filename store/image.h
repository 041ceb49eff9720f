/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file that a root image is written to, front to back: contents as they come from an importer,
 * then what the file system needs around them (erofs.h). In large writes, so that it lies in few
 * extents; long runs of zeroes are left out, so that it is sparse. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "store/share.h"
#include "store/tree.h"

#define CS_IMAGE_BLOCK UINT64_C(4096)

/* What ext4 can hold, and more than a root has: a larger one is a trap, not a file. */
#define CS_FILE_MAX (UINT64_C(16) << 40)

/* A length that is known only at the end. */
#define CS_FILE_UNKNOWN UINT64_MAX

struct cs_image;

/* Write to (fd), which is lent and empty, from (skip) bytes on; at most (max_bytes) in all. */
int cs_image_open(int fd, uint64_t skip, uint64_t max_bytes, struct cs_image **ret,
		  struct cs_err *err);

/* Before anything is appended: share with an older image (share.h). Lent. */
void cs_image_share(struct cs_image *image, struct cs_share *share);

/* Append. -ENOSPC with words: over (max_bytes), or the store is full. */
int cs_image_append(struct cs_image *image, const void *data, uint64_t bytes, struct cs_err *err);
int cs_image_zero(struct cs_image *image, uint64_t bytes, struct cs_err *err);

/* Append zeroes up to a multiple of (align), a power of two. */
int cs_image_pad(struct cs_image *image, uint64_t align, struct cs_err *err);

uint64_t cs_image_tell(const struct cs_image *image);
uint64_t cs_image_room(const struct cs_image *image); /* bytes left of (max_bytes) */

/* The contents of one regular file, which is (bytes) long (CS_FILE_UNKNOWN: as long as its data):
 * begin, data in ascending order, end. What is not given is a hole, or zeroes where a hole would
 * not pay. A file begun anew loses its former contents. -EFBIG: over CS_FILE_MAX; -EINVAL: data out
 * of order or past the end. Words do not name the file. */
int cs_image_file_begin(struct cs_image *image, struct cs_node *node, uint64_t bytes,
			struct cs_err *err);
int cs_image_file_data(struct cs_image *image, uint64_t offset, const void *data, uint64_t bytes,
		       struct cs_err *err);
int cs_image_file_end(struct cs_image *image, struct cs_err *err);

/* Write out what is buffered. */
int cs_image_flush(struct cs_image *image, struct cs_err *err);

/* Read contents back: (bytes) at (offset) of (node), holes as zeroes. Flushes first. -ENODATA: past
 * the end. */
int cs_image_read(struct cs_image *image, const struct cs_node *node, uint64_t offset, void *buf,
		  uint64_t bytes, struct cs_err *err);

struct cs_image *cs_image_free(struct cs_image *image);
CS_DEFINE_AUTO(cs_image);
