/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/daxtable.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "store/base/num.h"
#include "store/digest.h"

#define MAGIC  "clrstDAX"
#define FORMAT 1

/* On the device; numbers low byte first. */
struct disk_head {
	char magic[8];
	uint32_t format, count;
	uint64_t sequence, device_bytes;
	char digest[64]; /* SHA-256 of the slot with this field zero, in hex */
} __attribute__((packed));

struct disk_extent {
	char owner[32], name[CS_DAX_NAME];
	uint64_t offset, bytes;
} __attribute__((packed));

_Static_assert(sizeof(struct disk_head) == 96, "a head of 96 bytes");
_Static_assert(sizeof(struct disk_extent) == 208, "an extent of 208 bytes");
_Static_assert(sizeof(struct disk_head) + CS_DAX_EXTENTS * sizeof(struct disk_extent) <=
		       CS_DAX_SLOT_BYTES,
	       "all fit a slot");

static uint64_t taken_end(const struct cs_dax_extent *extent)
{
	return extent->offset + cs_align_up(extent->bytes, CS_DAX_GRAIN);
}

static int hash_slot(const unsigned char *slot, char ret[CS_DIGEST_TEXT])
{
	unsigned char copy[CS_DAX_SLOT_BYTES];

	memcpy(copy, slot, sizeof(copy));
	memset(copy + offsetof(struct disk_head, digest), 0,
	       sizeof(((struct disk_head *)0)->digest));
	return cs_digest_memory(copy, sizeof(copy), ret, NULL);
}

/* Text that ends within its field, and has nothing that a path or a terminal would obey. */
static bool take_text(char *to, const char *from, size_t room)
{
	size_t bytes = strnlen(from, room);

	for (size_t i = 0; i < bytes; i++) {
		if (from[i] <= ' ' || from[i] > '~' || from[i] == '/')
			return false;
	}
	memcpy(to, from, bytes);
	to[bytes] = '\0';
	return bytes > 0;
}

/* Behind the one before, inside the device. */
static bool take_extent(const struct disk_extent *from, uint64_t least, uint64_t device_bytes,
			struct cs_dax_extent *to)
{
	char name[CS_DAX_NAME + 1];

	if (!take_text(to->owner, from->owner, sizeof(from->owner)) ||
	    !take_text(name, from->name, sizeof(from->name)) || strlen(name) >= CS_DAX_NAME)
		return false;
	memcpy(to->name, name, CS_DAX_NAME);
	to->offset = le64toh(from->offset);
	to->bytes = le64toh(from->bytes);
	return to->offset >= least && to->offset % CS_DAX_GRAIN == 0 && to->bytes > 0 &&
	       to->offset <= device_bytes && to->bytes <= device_bytes - to->offset;
}

static int parse_slot(const unsigned char *slot, uint64_t device_bytes, struct cs_dax_table *ret)
{
	char digest[CS_DIGEST_TEXT];
	struct disk_extent extent;
	struct disk_head head;
	uint64_t least = CS_DAX_HEAD;
	uint32_t count;

	memcpy(&head, slot, sizeof(head));
	if (memcmp(head.magic, MAGIC, sizeof(head.magic)) != 0)
		return -ENODATA;
	if (le32toh(head.format) > FORMAT)
		return -EPROTO;
	count = le32toh(head.count);
	if (count > CS_DAX_EXTENTS || le64toh(head.device_bytes) > device_bytes ||
	    hash_slot(slot, digest) < 0 || memcmp(digest, head.digest, sizeof(head.digest)) != 0)
		return -EBADMSG;
	ret->sequence = le64toh(head.sequence);
	ret->n = count;
	for (uint32_t i = 0; i < count; i++) {
		memcpy(&extent, slot + sizeof(head) + i * sizeof(extent), sizeof(extent));
		if (!take_extent(&extent, least, device_bytes, &ret->extent[i]))
			return -EBADMSG;
		least = taken_end(&ret->extent[i]);
	}
	return 0;
}

int cs_dax_table_parse(const unsigned char *head, uint64_t device_bytes, struct cs_dax_table *ret,
		       unsigned *slot, struct cs_err *err)
{
	struct cs_dax_table found;
	bool any = false;
	int r[2];

	for (unsigned i = 0; i < 2; i++) {
		r[i] = parse_slot(head + i * CS_DAX_SLOT_BYTES, device_bytes, &found);
		if (r[i] < 0 || (any && found.sequence <= ret->sequence))
			continue;
		*ret = found;
		*slot = i;
		any = true;
	}
	if (r[0] == -EPROTO || r[1] == -EPROTO)
		return cs_fail(err, EPROTO,
			       "its table was written by a newer clearstore: update this one");
	if (any)
		return 0;
	if (r[0] == -ENODATA && r[1] == -ENODATA)
		return cs_fail(err, ENODATA, "has no table of clearstore's");
	return cs_fail(err, EBADMSG, "its table is damaged");
}

void cs_dax_table_format(const struct cs_dax_table *table, uint64_t device_bytes,
			 unsigned char *slot)
{
	struct disk_head head = {
		.magic = { 'c', 'l', 'r', 's', 't', 'D', 'A', 'X' },
		.format = htole32(FORMAT),
		.count = htole32((uint32_t)table->n),
		.sequence = htole64(table->sequence),
		.device_bytes = htole64(device_bytes),
	};
	char digest[CS_DIGEST_TEXT];

	memset(slot, 0, CS_DAX_SLOT_BYTES);
	memcpy(slot, &head, sizeof(head));
	for (size_t i = 0; i < table->n; i++) {
		struct disk_extent extent = {
			.offset = htole64(table->extent[i].offset),
			.bytes = htole64(table->extent[i].bytes),
		};

		memcpy(extent.owner, table->extent[i].owner,
		       strnlen(table->extent[i].owner, sizeof(extent.owner)));
		memcpy(extent.name, table->extent[i].name,
		       strnlen(table->extent[i].name, sizeof(extent.name)));
		memcpy(slot + sizeof(head) + i * sizeof(extent), &extent, sizeof(extent));
	}
	if (hash_slot(slot, digest) == 0) /* else it is not valid, and is not taken for it */
		memcpy(slot + offsetof(struct disk_head, digest), digest, sizeof(head.digest));
}

int cs_dax_table_add(struct cs_dax_table *table, uint64_t device_bytes, uint64_t bytes,
		     struct cs_dax_extent **ret)
{
	const uint64_t taken = cs_align_up(bytes, CS_DAX_GRAIN);
	uint64_t from = CS_DAX_HEAD;
	size_t i;

	if (table->n >= CS_DAX_EXTENTS || !bytes || bytes > device_bytes)
		return -ENOSPC;
	for (i = 0; i < table->n; i++) {
		if (table->extent[i].offset - from >= taken)
			break;
		from = taken_end(&table->extent[i]);
	}
	if (i == table->n && (from > device_bytes || device_bytes - from < taken))
		return -ENOSPC;
	memmove(&table->extent[i + 1], &table->extent[i],
		(table->n - i) * sizeof(table->extent[0]));
	table->n++;
	table->extent[i] = (struct cs_dax_extent){ .offset = from, .bytes = bytes };
	*ret = &table->extent[i];
	return 0;
}

void cs_dax_table_drop(struct cs_dax_table *table, size_t i)
{
	table->n--;
	memmove(&table->extent[i], &table->extent[i + 1],
		(table->n - i) * sizeof(table->extent[0]));
}

const struct cs_dax_extent *cs_dax_table_find(const struct cs_dax_table *table, uint64_t offset)
{
	for (size_t i = 0; i < table->n; i++) {
		if (table->extent[i].offset == offset)
			return &table->extent[i];
	}
	return NULL;
}
