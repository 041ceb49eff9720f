/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a fuzz target is, and how it reads its input. Linked with standalone.c it is a program that
 * feeds itself from a fixed seed (make check); built by tests/fuzz/run it is libFuzzer's. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns 0; a finding is a crash, a sanitizer's word or fuzz_require(). */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* How many inputs standalone.c takes for enough: a few seconds of them. */
extern const uint64_t fuzz_inputs;

#define fuzz_require(claim)                                                                        \
	do {                                                                                       \
		if (!(claim)) {                                                                    \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #claim);        \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* An input is read from its start; behind its end there are zeroes. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t fuzz_byte(struct fuzz_input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in)
{
	const uint16_t low = fuzz_byte(in);

	return (uint16_t)(low | fuzz_byte(in) << 8);
}

static inline uint32_t fuzz_u32(struct fuzz_input *in)
{
	const uint32_t low = fuzz_u16(in);

	return low | (uint32_t)fuzz_u16(in) << 16;
}
