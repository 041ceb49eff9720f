/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Simple quotas of Btrfs (Linux 6.7): what is written into a subvolume is counted as its own for
 * ever, whoever shares it later; what was cloned into it is not. So a guest is charged for what it
 * wrote, and never for the template.
 *
 * The size of a guest's disk alone is no bound: Btrfs keeps an extent whole as long as a block of
 * it is in use, so who writes long runs and overwrites all but a block of each, again and again,
 * holds many times the length of the file.
 *
 * Off unless asked for: a file system that ever had them is mounted by Linux 6.7 and later only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

/* Are they on, on the file system of (fd)? */
bool cs_quota_on(int fd);

/* Turn them on, for all that is written from now on; on already is fine. -EOPNOTSUPP with words:
 * not Btrfs, or the kernel has none; -EBUSY: others are on. */
int cs_quota_enable(int fd, struct cs_err *err);

/* What is written into the subvolume (fd) may take (bytes) at most, data and metadata: more is
 * refused with EDQUOT. Root only. */
int cs_quota_limit(int fd, uint64_t bytes, struct cs_err *err);
