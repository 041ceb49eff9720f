/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The head of a bzImage that says anything: what is accepted lies in the file, and its release can
 * be part of a path and of a line on a terminal. */
#include <ctype.h>
#include <string.h>

#include "store/kernel.h"
#include "tests/fake/kernel.h"
#include "tests/fuzz/fuzz.h"

const uint64_t fuzz_inputs = 200000;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input in = { .at = data, .left = bytes };
	unsigned char head[CS_FAKE_SETUP_BYTES];
	struct cs_bzimage found;
	struct cs_err err = { 0 };
	uint64_t head_bytes = sizeof(head), file_bytes;
	unsigned char *exact;
	int r;

	cs_fake_bzimage(head, 1000, "6.12");
	file_bytes = fuzz_byte(&in) & 1 ? fuzz_u32(&in) : sizeof(head) + 1000;
	for (unsigned changes = fuzz_byte(&in) % 16; changes; changes--) {
		/* most of what is read stands here */
		size_t at = 0x1f0 + fuzz_u16(&in) % 0x80;

		head[at] = fuzz_byte(&in);
	}
	if (fuzz_byte(&in) % 4 == 0)
		head_bytes = fuzz_u16(&in) % sizeof(head);
	/* a copy without anything behind it, so that reading on is seen */
	exact = malloc(head_bytes + 1);
	fuzz_require(exact);
	memcpy(exact, head, head_bytes);
	r = cs_bzimage_parse(exact, head_bytes, file_bytes, &found, &err);
	free(exact);
	if (r < 0) {
		fuzz_require(err.code == -r && err.text[0]);
		return 0;
	}
	fuzz_require(found.payload_bytes > 0);
	fuzz_require(found.payload_offset <= file_bytes);
	fuzz_require(found.payload_bytes <= file_bytes - found.payload_offset);
	fuzz_require(strlen(found.release) < CS_RELEASE_TEXT);
	fuzz_require(!found.release[0] || isdigit((unsigned char)found.release[0]));
	for (const char *c = found.release; *c; c++)
		fuzz_require(*c > ' ' && *c <= '~' && *c != '/');
	return 0;
}
