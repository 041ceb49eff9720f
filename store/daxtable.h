/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is on a DAX device: a table of extents at its beginning, in two slots of which the newer
 * valid one counts, so that a kill in the middle of writing one leaves the other. Pure: bytes in,
 * bytes out. The format is in docs/formats.md; the bytes may be anything. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define CS_DAX_GRAIN      (UINT64_C(2) << 20) /* extents begin and end on multiples of it */
#define CS_DAX_HEAD       CS_DAX_GRAIN        /* before the first extent */
#define CS_DAX_SLOT_BYTES (UINT64_C(64) << 10)
#define CS_DAX_EXTENTS    256
#define CS_DAX_OWNER      33  /* id of a store */
#define CS_DAX_NAME       160 /* "<template>@<version>.<part>" */

struct cs_dax_extent {
	char owner[CS_DAX_OWNER];
	char name[CS_DAX_NAME];
	uint64_t offset; /* on the device */
	uint64_t bytes;  /* of the part: what it takes is that rounded up to the grain */
};

struct cs_dax_table {
	uint64_t sequence; /* the higher one is newer */
	size_t n;
	struct cs_dax_extent extent[CS_DAX_EXTENTS]; /* ascending by offset, none over another */
};

/* The newer of the valid slots in (head), 2 * CS_DAX_SLOT_BYTES, of a device of (device_bytes);
 * *slot is which. -ENODATA: there is no table, neither has its magic number; -EBADMSG with words:
 * there is, and no slot is valid; -EPROTO: of a newer clearstore. */
int cs_dax_table_parse(const unsigned char *head, uint64_t device_bytes, struct cs_dax_table *ret,
		       unsigned *slot, struct cs_err *err);

/* (table) as the CS_DAX_SLOT_BYTES of a slot. */
void cs_dax_table_format(const struct cs_dax_table *table, uint64_t device_bytes,
			 unsigned char *slot);

/* Room for an extent of (bytes): the first gap. Enters it, and points *ret to it. -ENOSPC. */
int cs_dax_table_add(struct cs_dax_table *table, uint64_t device_bytes, uint64_t bytes,
		     struct cs_dax_extent **ret);

void cs_dax_table_drop(struct cs_dax_table *table, size_t i);

/* The one at (offset), NULL: none. */
const struct cs_dax_extent *cs_dax_table_find(const struct cs_dax_table *table, uint64_t offset);
