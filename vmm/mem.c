/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/mem.h"

#include <string.h>

/* The segment that holds (gpa), NULL: none. At most CS_RAM_SEGS of them: a search would not pay. */
static const struct cs_seg *find(const struct cs_mem *mem, uint64_t gpa)
{
	for (size_t i = 0; i < mem->ram.n; i++) {
		const struct cs_seg *seg = &mem->ram.seg[i];

		if (gpa >= seg->gpa && gpa - seg->gpa < seg->bytes)
			return seg->host ? seg : NULL;
	}
	return NULL;
}

/* (bytes) and what is left of (seg) from (gpa) on: the smaller. Never adds to (gpa): no sum to
 * wrap. */
static uint64_t within(const struct cs_seg *seg, uint64_t gpa, uint64_t bytes)
{
	uint64_t left = seg->bytes - (gpa - seg->gpa);

	return bytes < left ? bytes : left;
}

void *cs_mem_at(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes, bool write)
{
	const struct cs_seg *seg = find(mem, gpa);

	(void)write; /* RAM is writable, the rest is refused either way */
	if (!seg || seg->backing == CS_BACKING_SHARED || bytes == 0)
		return NULL;
	if (within(seg, gpa, bytes) != bytes)
		return NULL;
	return (char *)seg->host + (gpa - seg->gpa);
}

void *cs_mem_span(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes, bool write, uint64_t *ret)
{
	const struct cs_seg *seg = find(mem, gpa);

	if (!seg || bytes == 0 || (write && seg->backing == CS_BACKING_SHARED))
		return NULL;
	*ret = within(seg, gpa, bytes);
	return (char *)seg->host + (gpa - seg->gpa);
}

/* All of (bytes) from (gpa) on are RAM. A wrap lands at gpa 0 with bytes left over: refused too. */
static bool covered(const struct cs_mem *mem, uint64_t gpa, uint64_t bytes)
{
	if (bytes && gpa + (bytes - 1) < gpa)
		return false;
	while (bytes) {
		const struct cs_seg *seg = find(mem, gpa);
		uint64_t part;

		if (!seg || seg->backing == CS_BACKING_SHARED)
			return false;
		part = within(seg, gpa, bytes);
		gpa += part;
		bytes -= part;
	}
	return true;
}

bool cs_mem_read(const struct cs_mem *mem, uint64_t gpa, void *buf, size_t bytes)
{
	char *to = buf;

	if (!covered(mem, gpa, bytes))
		return false;
	while (bytes) {
		uint64_t part;
		const void *from = cs_mem_span(mem, gpa, bytes, false, &part);

		memcpy(to, from, part);
		to += part;
		gpa += part;
		bytes -= part;
	}
	return true;
}

bool cs_mem_write(const struct cs_mem *mem, uint64_t gpa, const void *buf, size_t bytes)
{
	const char *from = buf;

	if (!covered(mem, gpa, bytes))
		return false;
	while (bytes) {
		uint64_t part;
		void *to = cs_mem_span(mem, gpa, bytes, true, &part);

		memcpy(to, from, part);
		from += part;
		gpa += part;
		bytes -= part;
	}
	return true;
}
