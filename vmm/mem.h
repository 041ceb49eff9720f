/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory as the monitor sees it: the one funnel that every guest address goes through. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/guest.h"

/* A copy of the segments of a machine; small, const after set-up, shared by all devices and
 * threads. */
struct cs_mem {
	struct cs_ram ram;
};

/* The host address of (bytes) at (gpa), NULL when any of them is outside one segment of RAM, or the
 * sum wraps. A SHARED segment (the root) is the template's, mapped read-only: NULL when (write),
 * and also otherwise, so that no ring or table of a device lives in it. (bytes) 0: NULL. What it
 * points to can change at any time: copy, then decide. */
void *cs_mem_at(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes, bool write);

/* For the buffers of a request: the host address of (gpa), and in *ret how many of (bytes) lie
 * there in one piece, at least 1; the rest is to be asked for again. NULL as for cs_mem_at(), but
 * reading a SHARED segment is allowed: a guest program may write with O_DIRECT from a page of its
 * DAX root, and the guest can read that page anyway. */
void *cs_mem_span(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes, bool write,
		  uint64_t *ret);

/* Copy out of, or into, guest memory; false, and nothing copied, when any byte is not RAM. May
 * cross from one RAM segment into the next. */
bool cs_mem_read(const struct cs_mem *mem, uint64_t gpa, void *buf, size_t bytes);
bool cs_mem_write(const struct cs_mem *mem, uint64_t gpa, const void *buf, size_t bytes);
