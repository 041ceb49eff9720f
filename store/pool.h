/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is under a store: an existing folder, or a sparse Btrfs loop image beside its root. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

/* A sparse image: what is not written to it costs nothing. */
#define CS_POOL_BYTES (UINT64_C(40) << 30)

struct cs_pool_spec {
	const char *root; /* where the store will be seen */
	const char *path; /* an existing folder to be the store; then (root) becomes a link to it.
			     NULL: none */
	uint64_t bytes;   /* otherwise: size of the sparse image <root>.img; 0: CS_POOL_BYTES */
};

/* Make a store: image, mkfs.btrfs, mount (noatime, direct I/O on the loop device so that its pages
 * are not cached twice, discard=async), folders, store.json. All or nothing: whatever was made is
 * taken back on failure. -EEXIST: there is a store already. */
int cs_pool_init(const struct cs_pool_spec *spec, struct cs_err *err);

/* Mount <root>.img at <root> if it is there and nothing is mounted yet; two callers at once end
 * with one mount. 0: mounted now or before; -ENOENT: there is no image. */
int cs_pool_mount(const char *root, struct cs_err *err);

/* Take a store without templates and guests back: unmounted and its image deleted, or its folders
 * in an existing folder and the link to it. -ENOTEMPTY: there are some; -EBUSY: in use; -ENOENT: no
 * store. */
int cs_pool_remove(const char *root, struct cs_err *err);

/* The image under the store at (root). -ENOENT: there is none. */
struct cs_pool_info {
	char image[PATH_MAX + 8]; /* its path */
	uint64_t bytes;           /* as large as it can get; what its disk has of it */
	uint64_t stored_bytes;
	uint64_t disk_free_bytes; /* of the file system that it lies on */
};
int cs_pool_info(const char *root, struct cs_pool_info *ret, struct cs_err *err);

/* Let the image become (bytes) long and the Btrfs in it with it, while it is in use; the size that
 * it has: finish a growth that was killed. -EINVAL: smaller. */
int cs_pool_grow(const char *root, uint64_t bytes, struct cs_err *err);

/* Give what the file system of (dirfd) has free back to the disk under it, now. discard=async does
 * it in its own time, and leaves short stretches. */
int cs_pool_trim(int dirfd, struct cs_err *err);

/* How the file system of (dirfd) is. */
struct cs_pool_health {
	bool read_only;
	uint64_t bytes;  /* Btrfs: of its device, as it uses it; else 0 */
	uint64_t errors; /* Btrfs: reads and writes that failed, blocks that were damaged, ever */
};
int cs_pool_check(int dirfd, struct cs_pool_health *ret, struct cs_err *err);

/* Unmount, the image stays: -EBUSY while used. */
int cs_pool_unmount(const char *root, struct cs_err *err);
