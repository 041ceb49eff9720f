/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/base/text.h"

#include <stddef.h>
#include <stdint.h>

/* Decode the sequence at (p), which ends with NUL: its length, 0 when it is none. Overlong forms,
 * surrogates and what lies over U+10FFFF are none. */
static size_t decode(const unsigned char *p, uint32_t *ret)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t code;
	size_t n;

	if (p[0] < 0x80) {
		*ret = p[0];
		return 1;
	}
	if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if (p[0] >= 0xe0 && p[0] <= 0xef)
		n = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		n = 4;
	else
		return 0;

	code = p[0] & (0x7fu >> n);
	for (size_t i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80) /* the NUL stops it too */
			return 0;
		code = code << 6 | (p[i] & 0x3f);
	}
	if (code < least[n] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff)
		return 0;
	*ret = code;
	return n;
}

/* What a terminal acts on instead of showing it: controls, line and paragraph separators, and the
 * marks with which a name can be made to read as another. */
static bool is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x200e || code == 0x200f ||
	       (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

char *cs_text_clean(char *text, bool keep_controls)
{
	unsigned char *p = (unsigned char *)text;
	uint32_t code = 0;
	size_t n;

	for (; *p; p += n) {
		n = decode(p, &code);
		if (n && (keep_controls || !is_control(code)))
			continue;
		if (n == 1 && (code == '\t' || code == '\n')) {
			*p = ' ';
			continue;
		}
		if (!n)
			n = 1;
		for (size_t i = 0; i < n; i++)
			p[i] = '?';
	}
	return text;
}
