/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest's own pages are like, for whoever decides which of them are worth merging: a number
 * for each, of what is in it. The pages themselves do not leave the monitor. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"

#define CS_SKETCH_PAGES_MAX 65536 /* so the loop thread is busy with it for some 30 ms at most */

/* Write a struct cs_sketch_page for each page of (ram) that is not its template's, ascending, to
 * the beginning of (fd). The vCPUs may run: of a page that is just being written to the number is
 * that of some mixture. *ret_pages: how many. -EFBIG: more than CS_SKETCH_PAGES_MAX, nothing is
 * written; -errno of writing or of (pagemap_fd). */
int cs_sketch_write(int pagemap_fd, const struct cs_ram *ram, int fd, uint64_t *ret_pages);
