/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes, publish-by-rename, and removing a tree. All take descriptors first. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

/* Read or write exactly (bytes), through short transfers and EINTR. 0, -errno; -ENODATA: end of
 * file first. */
int cs_read_full(int fd, void *buf, size_t bytes);
int cs_write_full(int fd, const void *buf, size_t bytes);
int cs_pread_full(int fd, void *buf, size_t bytes, uint64_t offset);
int cs_pwrite_full(int fd, const void *buf, size_t bytes, uint64_t offset);

/* The whole of a small file as a NUL-terminated string the caller frees; *ret_bytes (may be NULL):
 * its length, for there may be NULs inside. (dirfd) may be AT_FDCWD. A symbolic link as the last
 * component is refused (-ELOOP), so is what is no regular file (-EINVAL, -EISDIR). -EFBIG: over
 * (max) bytes. */
int cs_read_file_at(int dirfd, const char *name, size_t max, char **ret, size_t *ret_bytes);

/* Make (name) hold (bytes) of (data), all or nothing: ".NAME.new" written with O_EXCL, fsynced,
 * renamed over (name), the folder fsynced. A leftover of a killed writer is replaced; writers of
 * the same name at once are put in a row by a lock on that file. (name) has no '/': -EINVAL. */
int cs_publish_at(int dirfd, const char *name, mode_t mode, const void *data, size_t bytes,
		  struct cs_err *err);

/* As cs_publish_at() without the fsyncs: readers see the old or the new, but after a power cut the
 * file may be either, or empty. For what a reboot makes worthless (the pid of a guest). */
int cs_replace_at(int dirfd, const char *name, mode_t mode, const void *data, size_t bytes,
		  struct cs_err *err);

/* As mkdirat(), but an existing folder is success. */
int cs_mkdir_at(int dirfd, const char *name, mode_t mode);

/* mkdir -p; (path) from (dirfd), every folder made with (mode). */
int cs_mkdir_path(int dirfd, const char *path, mode_t mode);

/* fsync a folder (AT_FDCWD: the current one), so that renames and unlinks in it last. */
int cs_sync_dir(int dirfd);

/* rm -r without following links or crossing into other file systems; a missing (name) is success.
 * Any depth: one folder is open at a time. (name) may be a path. It ends at the first thing it
 * cannot remove: a Btrfs subvolume with something in it is -ENOTEMPTY (store/subvol.c removes
 * those), a mount point -EBUSY. Only one caller at a time on the same tree (-ESTALE otherwise). */
int cs_remove_tree_at(int dirfd, const char *name);

/* True when nothing at (name). */
bool cs_missing_at(int dirfd, const char *name);
