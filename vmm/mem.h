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
 * and also otherwise, so that a guest cannot have the host read a template on its behalf. (bytes)
 * 0: NULL. What it points to can change at any time: copy, then decide. */
void *cs_mem_at(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes, bool write);

/* Copy out of, or into, guest memory; false when any byte is not RAM. May cross from one RAM
 * segment into the next. */
bool cs_mem_read(const struct cs_mem *mem, uint64_t gpa, void *buf, size_t bytes);
bool cs_mem_write(const struct cs_mem *mem, uint64_t gpa, const void *buf, size_t bytes);
