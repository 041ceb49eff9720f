/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The entries of the clone table. */
#pragma once

#include "cow/clone.h"

/* FICLONE: shares the blocks until one side writes. Btrfs, XFS. */
extern const struct cs_clone cs_clone_reflink;

/* Everything read and written; holes stay holes. Any file system. */
extern const struct cs_clone cs_clone_copy;

/* Make the file (name) in (dirfd), which must not be there yet: *ret is the caller's. */
int cs_clone_make(int dirfd, const char *name, int *ret, struct cs_err *err);
