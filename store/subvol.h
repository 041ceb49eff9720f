/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Btrfs subvolumes, where there are any; plain folders elsewhere. The only owner of libbtrfsutil
 * (Debian 12: 1.2, the verb-first names). It lives in store/ and not in cow/, since publishing a
 * template needs it. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"

/* Make (name) in (dirfd): a subvolume on Btrfs, a folder on other file systems. */
int cs_subvol_create(int dirfd, const char *name, struct cs_err *err);

/* Make (name) read-only for good. On other file systems: the write bits of what is in it are taken
 * away. */
int cs_subvol_seal(int dirfd, const char *name, struct cs_err *err);

/* Writable snapshot of the subvolume (source_dirfd) as (name) in (dirfd). -EOPNOTSUPP: not on
 * Btrfs. */
int cs_subvol_snapshot(int source_dirfd, int dirfd, const char *name, struct cs_err *err);

/* Delete (name) with everything in it, subvolumes, sealed or not, and folders alike; a missing
 * (name) is success. */
int cs_subvol_remove(int dirfd, const char *name, struct cs_err *err);

bool cs_subvol_is(int dirfd, const char *name);
