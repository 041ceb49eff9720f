/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/num.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int digit_of(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return 16;
}

/* Read digits of (base) from *text on; at least one must be there. */
static int parse_digits(const char **text, unsigned base, uint64_t max, uint64_t *ret)
{
	const char *p = *text;
	uint64_t value = 0;

	for (; digit_of(*p) < (int)base; p++) {
		if (!cs_mul_u64(value, base, &value) ||
		    !cs_add_u64(value, (uint64_t)digit_of(*p), &value) || value > max)
			return -ERANGE;
	}
	if (p == *text)
		return -EINVAL;
	*text = p;
	*ret = value;
	return 0;
}

int cs_parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t value;
	int r;

	r = parse_digits(&text, 10, max, &value);
	if (r < 0)
		return r;
	if (*text)
		return -EINVAL;
	*ret = value;
	return 0;
}

int cs_parse_hex(const char *text, uint64_t max, uint64_t *ret)
{
	uint64_t value;
	int r;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		text += 2;
	r = parse_digits(&text, 16, max, &value);
	if (r < 0)
		return r;
	if (*text)
		return -EINVAL;
	*ret = value;
	return 0;
}

int cs_parse_bytes(const char *text, uint64_t *ret)
{
	static const char units[] = "KMGT";
	uint64_t value;
	const char *unit;
	int r;

	r = parse_digits(&text, 10, UINT64_MAX, &value);
	if (r < 0)
		return r;
	unit = *text ? strchr(units, *text >= 'a' ? *text - 'a' + 'A' : *text) : NULL;
	if (unit) {
		if (!cs_mul_u64(value, CS_KIB << 10 * (unit - units), &value))
			return -ERANGE;
		text++;
		if (*text == 'i' && text[1] == 'B')
			text++;
	}
	if (*text == 'B')
		text++;
	if (*text)
		return -EINVAL;
	*ret = value;
	return 0;
}

const char *cs_format_bytes(uint64_t bytes, char text[CS_BYTES_TEXT])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double scaled = (double)bytes;
	size_t unit = 0;

	while (scaled >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		scaled /= 1024;
		unit++;
	}
	snprintf(text, CS_BYTES_TEXT, unit ? "%.1f %s" : "%.0f %s", scaled, units[unit]);
	return text;
}
