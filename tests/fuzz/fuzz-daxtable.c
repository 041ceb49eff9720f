/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A table on a DAX device that says anything, signed right: what is accepted lies on the device, in
 * order and apart, and has room for more or says that it has none. */
#include <string.h>

#include "store/daxtable.h"
#include "tests/fuzz/fuzz.h"

#define DEVICE (UINT64_C(1) << 30)

const uint64_t fuzz_inputs = 3000;

static void check(struct cs_dax_table *table)
{
	struct cs_dax_extent *extent;
	uint64_t end = CS_DAX_HEAD;

	fuzz_require(table->n <= CS_DAX_EXTENTS);
	for (int again = 0; again < 2; again++) {
		end = CS_DAX_HEAD;
		for (size_t i = 0; i < table->n; i++) {
			const struct cs_dax_extent *e = &table->extent[i];

			fuzz_require(e->offset >= end && e->offset % CS_DAX_GRAIN == 0);
			fuzz_require(e->bytes && e->bytes <= DEVICE &&
				     e->offset <= DEVICE - e->bytes);
			fuzz_require(memchr(e->name, 0, sizeof(e->name)));
			fuzz_require(memchr(e->owner, 0, sizeof(e->owner)));
			end = e->offset + ((e->bytes + CS_DAX_GRAIN - 1) & ~(CS_DAX_GRAIN - 1));
		}
		if (cs_dax_table_add(table, DEVICE, 3 * CS_DAX_GRAIN, &extent) < 0)
			break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const uint64_t edges[] = { 0,          1,          CS_DAX_GRAIN, DEVICE,
					  UINT64_MAX, DEVICE - 1, CS_DAX_HEAD,  UINT64_MAX - 4095 };
	struct fuzz_input in = { .at = data, .left = bytes };
	struct cs_dax_table table = { .sequence = fuzz_byte(&in) }, found;
	unsigned char *head = calloc(2, CS_DAX_SLOT_BYTES);
	uint64_t at = CS_DAX_HEAD;
	unsigned slot;

	fuzz_require(head);
	table.n = fuzz_byte(&in) % 12;
	for (size_t i = 0; i < table.n; i++) {
		struct cs_dax_extent *e = &table.extent[i];
		const unsigned how = fuzz_byte(&in);

		memset(e->owner, 'a', CS_DAX_OWNER - 1);
		e->name[0] = (char)fuzz_byte(&in);
		e->name[1] = 'x';
		e->offset = how & 1 ? edges[fuzz_byte(&in) % 8] : at;
		e->bytes = how & 2 ? edges[fuzz_byte(&in) % 8] : fuzz_u32(&in) % (4 * CS_DAX_GRAIN);
		at += (e->bytes + CS_DAX_GRAIN - 1) & ~(CS_DAX_GRAIN - 1);
	}
	cs_dax_table_format(&table, DEVICE, head);
	table.sequence = fuzz_byte(&in);
	table.n = table.n ? table.n - 1 : 0;
	cs_dax_table_format(&table, DEVICE, head + CS_DAX_SLOT_BYTES);
	for (unsigned changes = fuzz_byte(&in) % 4; changes; changes--)
		head[(fuzz_byte(&in) & 1) * CS_DAX_SLOT_BYTES + fuzz_u16(&in) % 2048] ^=
			(unsigned char)fuzz_byte(&in);
	if (cs_dax_table_parse(head, DEVICE, &found, &slot, NULL) == 0)
		check(&found);
	free(head);
	return 0;
}
