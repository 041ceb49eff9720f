/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest says must not move the cursor of who reads it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "store/base/text.h"

static void check(const char *text, const char *shown, const char *kept)
{
	char buf[256];

	snprintf(buf, sizeof(buf), "%s", text);
	assert_string_equal(cs_text_clean(buf, false), shown);
	snprintf(buf, sizeof(buf), "%s", text);
	assert_string_equal(cs_text_clean(buf, true), kept);
}

static void test_plain_stays(void **state)
{
	check("", "", "");
	check("web-1 ~!", "web-1 ~!", "web-1 ~!");
	check("\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x84", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x84",
	      "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\x84");
	check("\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf");
}

static void test_controls(void **state)
{
	check("a\033[31mb\x07", "a?[31mb?", "a\033[31mb\x07");
	check("a\tb\nc\r", "a b c?", "a\tb\nc\r");
	check("\x7f", "?", "\x7f");
	check("\xc2\x9b"
	      "31m",
	      "??31m",
	      "\xc2\x9b"
	      "31m"); /* CSI in one */
	check("\xe2\x80\xae"
	      "x",
	      "???x",
	      "\xe2\x80\xae"
	      "x"); /* right to left */
	check("\xe2\x81\xa6\xe2\x80\xa8", "??????", "\xe2\x81\xa6\xe2\x80\xa8");
}

static void test_invalid_sequences(void **state)
{
	check("\xff\xfe", "??", "??");
	check("a\x80z", "a?z", "a?z");
	check("\xc3", "?", "?");
	check("\xe2\x82", "??", "??");
	check("\xc0\xaf", "??", "??");             /* overlong '/' */
	check("\xe0\x80\xaf", "???", "???");       /* the same */
	check("\xed\xa0\x80", "???", "???");       /* a surrogate */
	check("\xf4\x90\x80\x80", "????", "????"); /* over U+10FFFF */
	check("\xf0\x9f\x90"
	      "a",
	      "???a", "???a");
}

static void test_any_bytes(void **state)
{
	unsigned seed = 1;
	char buf[64];

	for (int round = 0; round < 20000; round++) {
		size_t n = (seed = seed * 1103515245 + 12345) >> 16 & 63, length;

		for (size_t i = 0; i < n; i++)
			buf[i] = (char)((seed = seed * 1103515245 + 12345) >> 16);
		buf[n] = '\0';
		length = strlen(buf);
		cs_text_clean(buf, false);
		assert_int_equal(strlen(buf), length);
		for (size_t i = 0; i < length; i++)
			assert_true((unsigned char)buf[i] >= 0x20 && buf[i] != 0x7f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_stays),
		cmocka_unit_test(test_controls),
		cmocka_unit_test(test_invalid_sequences),
		cmocka_unit_test(test_any_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
