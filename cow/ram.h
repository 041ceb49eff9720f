/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's memory in this process: a plan (store/base/guest.h), a root and a saved memory, mapped.
 */
#pragma once

#include "store/base/err.h"
#include "store/base/guest.h"

/* Map every segment of (ram), as cs_ram_plan() left it, at host addresses on a boundary of 2 MiB,
 * and fill (host). By backing:
 *   ANON    private zeroes, not reserved: host memory is used page by page as the guest writes
 *   COW     (memory), private: the template's page cache until the guest first writes to a page.
 *           The file holds these segments one after the other in order of gpa
 *   SHARED  (root), read-only and shared: with one inode for all guests there is one copy
 * ANON and COW without huge pages and left out of core dumps. Pages of (root) and (memory) must be
 * the host's page cache's or the medium's: -EINVAL with words when the file ends more than a page
 * before the segment (a guest that reads behind it would kill the monitor by SIGBUS); parts are as
 * long as they need to be when they are made. (root), (memory) may be NULL when no segment needs
 * them. Nothing stays mapped on failure. */
int cs_ram_map(struct cs_ram *ram, const struct cs_view *root, const struct cs_view *memory,
	       struct cs_err *err);

/* Give the COW and DAXCOW segments of (ram), which is mapped, their own copies of (n) ranges of
 * pages (counted as in the MEMORY part) now: the guest is about to write there, and each would be a
 * fault then, often two. What the host cannot or does not know how to (MADV_POPULATE_WRITE,
 * Linux 5.14) is left for then. */
void cs_ram_populate(const struct cs_ram *ram, const struct cs_page_range range[], size_t n);

/* From now on a page of the COW and DAXCOW segments is mapped when it is read or written, and no
 * other with it (usually the kernel maps up to 15 neighbours, mm/memory.c, do_fault_around()): for
 * as long as the descriptor that is returned is open, which is the caller's. -errno: not on this
 * host (Linux 6.7, and the right to use userfaultfd(2)). */
int cs_ram_map_singly(const struct cs_ram *ram);

/* Unmap what is mapped; (host) is NULL again. */
void cs_ram_unmap(struct cs_ram *ram);
