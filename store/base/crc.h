/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A checksum against damage, not against malice: finds each flipped bit, each burst of up to 32,
 * and costs no library. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CRC-32 of ISO 3309, as zlib and PNG have it: polynomial 0x04c11db7, reflected, all ones before
 * and after. */
uint32_t cs_crc32(const void *data, size_t bytes);
