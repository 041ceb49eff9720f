/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes an image an EROFS: uncompressed, blocks of 4 KiB, no file contents inline, so that every
 * regular file can be DAX. Written here rather than by mkfs.erofs, since mkfs.erofs 1.5 wants the
 * tree unpacked first and moves it in 4 KiB writes: 2 s for 212 MiB, several times what all of an
 * import takes. Facts of the format: Linux 6.12 fs/erofs/erofs_fs.h. */
#pragma once

#include "store/base/err.h"
#include "store/image.h"
#include "store/tree.h"

/* Where contents may begin: the first block holds the superblock. */
#define CS_EROFS_SKIP CS_IMAGE_BLOCK

/* Append folders, inodes and the superblock for (tree), whose contents are in (image) already, and
 * end it on a multiple of (align) bytes, a power of two. The same tree gives the same bytes. (fd)
 * is the image's file. -E2BIG: extended attributes that the format cannot hold. */
int cs_erofs_finish(struct cs_image *image, int fd, struct cs_tree *tree, uint64_t align,
		    struct cs_err *err);
