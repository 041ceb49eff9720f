/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tree of files from outside, taken into memory and into an image. What comes in is hostile:
 * links lead nowhere but inside the tree, numbers are checked, sizes are limited to what the image
 * may take, and every refusal names the entry. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/progress.h"
#include "store/image.h"
#include "store/tree.h"

struct cs_import {
	struct cs_tree *tree;         /* lent; filled */
	struct cs_image *image;       /* lent; contents are appended */
	struct cs_progress *progress; /* lent, may be NULL */
	uint64_t input_bytes;         /* of file contents, holes not counted */
	uint64_t files;               /* entries that came in, folders and links too */
};

/* Everything in the folder (path), without what is mounted in it. Owners, modes, times, extended
 * attributes, hard links, device nodes and holes are kept; sockets are left out. -EAGAIN: a file
 * changed while it was read. */
int cs_import_dir(struct cs_import *import, const char *path, struct cs_err *err);

/* Everything in the archive (path): tar, cpio, zip, 7-Zip or ISO 9660, compressed by anything that
 * libarchive reads itself. Owners, modes, times, extended attributes, ACLs, hard links, device
 * nodes and holes are kept. -EINVAL: not an archive, damaged, or an entry that is refused ("..",
 * an absolute path, ...); -ENODATA: truncated; -EFBIG, -EMLINK: a trap. */
int cs_import_archive(struct cs_import *import, const char *path, struct cs_err *err);

/* The contents of a file of this host's as (node)'s. */
int cs_import_file(struct cs_import *import, struct cs_node *node, int fd, struct cs_err *err);
