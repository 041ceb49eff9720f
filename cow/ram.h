/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's memory in this process: a plan (store/base/guest.h) and a root, mapped. */
#pragma once

#include "store/base/err.h"
#include "store/base/guest.h"

/* Map every segment of (ram), as cs_ram_plan() left it, at host addresses on a boundary of 2 MiB,
 *and fill (host): ANON	private zeroes, not reserved (host memory is used page by page as the guest
 *writes), no huge pages, left out of core dumps SHARED	(root), read-only and shared: with one inode
 *for all guests there is one copy. Its pages must be the host's page cache's or the medium's:
 *-EINVAL with words when the file ends more than a page before the segment (a guest that reads
 *behind it would kill the monitor by SIGBUS); parts are padded to 2 MiB at import. (root) may be
 *NULL when no segment is SHARED. Nothing stays mapped on failure. */
int cs_ram_map(struct cs_ram *ram, const struct cs_view *root, struct cs_err *err);

/* Unmap what is mapped; (host) is NULL again. */
void cs_ram_unmap(struct cs_ram *ram);
