/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A DAX character device: no reads and writes, only shared mappings, in multiples of its alignment.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"

/* Size and alignment of the open device (fd), by sysfs. -ENOTTY: it is none. */
int cs_daxdev_info(int fd, uint64_t *ret_bytes, uint64_t *ret_align);

/* Map (bytes) from (offset) on, both multiples of 2 MiB; NULL and errno. */
void *cs_daxdev_map(int fd, uint64_t offset, uint64_t bytes, bool write);

/* Copy to a mapping, and out of the processor's caches: it lasts when this returns. */
void cs_daxdev_copy(void *to, const void *from, uint64_t bytes);
