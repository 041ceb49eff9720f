/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tree of files -> a DAX-ready root image, with what clearstore puts into every root. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"
#include "store/base/progress.h"
#include "store/image.h"
#include "store/share.h"
#include "store/template.h"
#include "store/tree.h"

struct cs_rootfs;

struct cs_rootfs_spec {
	const char *from;             /* folder or archive */
	const char *agent;            /* put in at /sbin/clearstore-agent */
	uint64_t max_bytes;           /* of the image */
	struct cs_share *share;       /* with an older root; lent, may be NULL */
	struct cs_progress *progress; /* may be NULL */
};

/* Read all of (from) into memory and the contents into the file (fd), which is lent and empty; then
 * the agent, and the mount points that a guest needs (proc, sys, dev, run, tmp). */
int cs_rootfs_open(int fd, const struct cs_rootfs_spec *spec, struct cs_rootfs **ret,
		   struct cs_err *err);

struct cs_tree *cs_rootfs_tree(const struct cs_rootfs *rootfs);   /* lent */
struct cs_image *cs_rootfs_image(const struct cs_rootfs *rootfs); /* lent */
uint64_t cs_rootfs_input_bytes(const struct cs_rootfs *rootfs);
uint64_t cs_rootfs_files(const struct cs_rootfs *rootfs);

/* Make the file an EROFS that ends on 2 MiB. */
int cs_rootfs_finish(struct cs_rootfs *rootfs, struct cs_err *err);

struct cs_rootfs *cs_rootfs_free(struct cs_rootfs *rootfs);
CS_DEFINE_AUTO(cs_rootfs);

/* Copy the EROFS image (erofs_fd) to a new ext4 image (name) in (dirfd): 4 KiB blocks, no journal,
 * no more room than it needs, ended on 2 MiB. Needs root and a host kernel with EROFS: it is
 * mounted, in a mount namespace that dies with the process that does it. */
int cs_rootfs_to_ext4(int erofs_fd, int dirfd, const char *name, uint64_t max_bytes,
		      struct cs_err *err);

/* An empty, sparse ext4 of (bytes) as (name) in (dirfd): what a persistent guest's disk is cloned
 * from. */
int cs_rootfs_empty_disk(int dirfd, const char *name, uint64_t bytes, struct cs_err *err);

/* Make the ext4 (name) in (dirfd), the only one who writes to it, (bytes) large, up or down; what
 * is in it stays. -EIO with words: it does not fit, or was not unmounted cleanly. */
#define CS_DISK_MIN (64 * CS_MIB)
#define CS_DISK_MAX (UINT64_C(16) << 40) /* of an ext4 of 4 KiB blocks */
int cs_rootfs_resize_disk(int dirfd, const char *name, uint64_t bytes, struct cs_err *err);
