/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory of a parked guest: only the pages that differ from what it is mapped from (zeroes, or
 * the MEMORY part of its template), so that the rest stays shared when it goes on.
 *
 *   file    head, a page; data, whole pages one behind the other; index
 *   head    "CSDELTA" and a NUL, u32 version 1, u32 entries of the index, u64 bytes of all segments
 *           but the SHARED one, u64 bytes of data
 *   entry   u64 offset (as in a MEMORY part), u32 pages, u32 0: they are in the data, 1: zeroes
 *
 * Entries are in no order: a later one counts. All little endian. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "vmm/snapshot-memory.h"

/* Write what is in (picture) to (fd), an empty file. (go_on) as for cs_picture_write(). */
int cs_delta_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *arg), void *arg,
		   struct cs_picture_count *ret, struct cs_err *err);

/* Put it into (ram), which is mapped from what it was when the picture was taken. -EBADMSG: it is
 * none, or broken; -ESTALE: of a memory of another size. */
int cs_delta_read(const struct cs_ram *ram, int fd, struct cs_err *err);
