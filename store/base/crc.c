/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/crc.h"

#define POLYNOMIAL 0xedb88320u /* reflected */

uint32_t cs_crc32(const void *data, size_t bytes)
{
	const unsigned char *at = data;
	uint32_t nibble[16], crc = ~0u;

	/* Four bits at a time: made in no time, and a table in the program would be a page to read.
	 */
	for (uint32_t i = 0; i < 16; i++) {
		nibble[i] = i;
		for (int bit = 0; bit < 4; bit++)
			nibble[i] = nibble[i] >> 1 ^ (nibble[i] & 1 ? POLYNOMIAL : 0);
	}
	for (size_t i = 0; i < bytes; i++) {
		crc ^= at[i];
		crc = crc >> 4 ^ nibble[crc & 15];
		crc = crc >> 4 ^ nibble[crc & 15];
	}
	return ~crc;
}
