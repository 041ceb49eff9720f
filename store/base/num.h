/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checked arithmetic and strict parsing. The only place where text becomes a number. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CS_KIB (UINT64_C(1) << 10)
#define CS_MIB (UINT64_C(1) << 20)
#define CS_GIB (UINT64_C(1) << 30)
#define CS_TIB (UINT64_C(1) << 40)

/* *ret = a + b or a * b; true when it fits, *ret untouched otherwise. */
static inline bool cs_add_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	uint64_t sum;

	if (__builtin_add_overflow(a, b, &sum))
		return false;
	*ret = sum;
	return true;
}

static inline bool cs_mul_u64(uint64_t a, uint64_t b, uint64_t *ret)
{
	uint64_t product;

	if (__builtin_mul_overflow(a, b, &product))
		return false;
	*ret = product;
	return true;
}

/* Round up to a power of two (align); saturates at the last aligned value instead of wrapping. */
static inline uint64_t cs_align_up(uint64_t value, uint64_t align)
{
	if (value > UINT64_MAX - (align - 1))
		return ~(align - 1);
	return (value + align - 1) & ~(align - 1);
}

static inline uint64_t cs_align_down(uint64_t value, uint64_t align)
{
	return value & ~(align - 1);
}

/* Decimal digits only, no sign, no blanks, nothing behind: 0; -EINVAL: not a number, -ERANGE: over
 * (max). */
int cs_parse_u64(const char *text, uint64_t max, uint64_t *ret);

/* As cs_parse_u64() in base 16, "0x" optional. */
int cs_parse_hex(const char *text, uint64_t max, uint64_t *ret);

/* A size in bytes: decimal digits and one of K M G T (1024-based; a following "iB" or "B" is
 * accepted: 128M, 128MiB). 0; -EINVAL: not a size, -ERANGE: does not fit 64 bits. */
int cs_parse_bytes(const char *text, uint64_t *ret);

/* Write (bytes) for people: "512 B", "38.3 MiB", "1.2 GiB". (text) has room for CS_BYTES_TEXT. */
#define CS_BYTES_TEXT 24
const char *cs_format_bytes(uint64_t bytes, char text[CS_BYTES_TEXT]);
