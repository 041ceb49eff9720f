/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/guest.h"

#include <errno.h>

#include "store/base/num.h"

#define ADDRESS_END (UINT64_C(1) << 44)

static void push(struct cs_ram *ram, uint64_t gpa, uint64_t bytes, enum cs_backing backing)
{
	ram->seg[ram->n++] = (struct cs_seg){ .gpa = gpa, .bytes = bytes, .backing = backing };
}

int cs_ram_plan(uint64_t ram_bytes, uint64_t root_bytes, struct cs_ram *ret, struct cs_err *err)
{
	struct cs_ram ram = { .n = 0 };
	uint64_t low, high, end, root_gpa;
	char text[CS_BYTES_TEXT];

	if (ram_bytes < CS_RAM_MIN || ram_bytes % CS_PAGE_BYTES)
		return cs_fail(
			err, EINVAL,
			"memory %s: too little for a guest, or no multiple of 4 KiB (try 128M)",
			cs_format_bytes(ram_bytes, text));
	if (ram_bytes >= ADDRESS_END || root_bytes >= ADDRESS_END)
		return cs_fail(
			err, ERANGE, "memory %s: more than a guest can address (try 128M)",
			cs_format_bytes(ram_bytes >= ADDRESS_END ? ram_bytes : root_bytes, text));

	low = ram_bytes < CS_GAP_GPA ? ram_bytes : CS_GAP_GPA;
	high = ram_bytes - low;
	push(&ram, 0, low, CS_BACKING_ANON);
	if (high)
		push(&ram, CS_GAP_END_GPA, high, CS_BACKING_ANON);
	if (root_bytes) {
		root_bytes = cs_align_up(root_bytes, CS_ROOT_GRAIN);
		root_gpa = cs_align_up(low, CS_ROOT_ALIGN);
		if (high || root_bytes > CS_GAP_GPA - root_gpa)
			root_gpa = cs_align_up(CS_GAP_END_GPA + high, CS_ROOT_ALIGN);
		end = root_gpa + root_bytes;
		if (end > ADDRESS_END)
			return cs_fail(err, ERANGE,
				       "a root of %s does not fit the guest's addresses",
				       cs_format_bytes(root_bytes, text));
		push(&ram, root_gpa, root_bytes, CS_BACKING_SHARED);
	}
	*ret = ram;
	return 0;
}

int cs_ram_each(const struct cs_ram *ram, uint64_t from, uint64_t to, cs_ram_fn fn, void *arg)
{
	uint64_t at = 0; /* the first page of the segment */
	int r = 0;

	for (size_t i = 0; i < ram->n && r == 0; i++) {
		const struct cs_seg *seg = &ram->seg[i];
		const uint64_t end = at + seg->bytes / CS_PAGE_BYTES;
		const uint64_t first = from > at ? from : at, last = to < end ? to : end;

		if (seg->backing == CS_BACKING_SHARED)
			continue;
		if (first < last)
			r = fn(seg, (first - at) * CS_PAGE_BYTES, (last - first) * CS_PAGE_BYTES,
			       arg);
		at = end;
	}
	return r;
}
