/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text becomes a number, or does not: there is no third way. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/base/crc.h"
#include "store/base/num.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define UNTOUCHED    UINT64_C(0x5a5a5a5a)
#define ALMOST_MAX   "18446744073709551615"
#define ONE_TOO_MANY "18446744073709551616"
#define FAR_TOO_MANY "99999999999999999999999999999999999999"

struct row {
	const char *text;
	uint64_t max;
	int r;
	uint64_t value;
};

static void check_rows(const struct row *rows, size_t n,
		       int (*parse)(const char *, uint64_t, uint64_t *))
{
	for (size_t i = 0; i < n; i++) {
		uint64_t value = UNTOUCHED;

		print_message("# '%s'\n", rows[i].text);
		assert_int_equal(parse(rows[i].text, rows[i].max, &value), rows[i].r);
		assert_int_equal(value, rows[i].r < 0 ? UNTOUCHED : rows[i].value);
	}
}

static void test_decimal(void **state)
{
	static const struct row rows[] = {
		{ "0", 0, 0, 0 },
		{ "0042", 42, 0, 42 },
		{ "43", 42, -ERANGE, 0 },
		{ ALMOST_MAX, UINT64_MAX, 0, UINT64_MAX },
		{ ONE_TOO_MANY, UINT64_MAX, -ERANGE, 0 },
		{ FAR_TOO_MANY, UINT64_MAX, -ERANGE, 0 },
		{ "", 9, -EINVAL, 0 },
		{ "-1", 9, -EINVAL, 0 },
		{ "+1", 9, -EINVAL, 0 },
		{ " 1", 9, -EINVAL, 0 },
		{ "1 ", 9, -EINVAL, 0 },
		{ "1\n", 9, -EINVAL, 0 },
		{ "0x1", 9, -EINVAL, 0 },
		{ "1a", 9, -EINVAL, 0 },
		{ "\xb2", 9, -EINVAL, 0 },
	};

	check_rows(rows, COUNT(rows), cs_parse_u64);
}

static void test_hex(void **state)
{
	static const struct row rows[] = {
		{ "0", 0, 0, 0 },
		{ "0xff", 255, 0, 255 },
		{ "FF", 255, 0, 255 },
		{ "100", 255, -ERANGE, 0 },
		{ "0XffffffffFFFFFFFF", UINT64_MAX, 0, UINT64_MAX },
		{ "10000000000000000", UINT64_MAX, -ERANGE, 0 },
		{ "", 255, -EINVAL, 0 },
		{ "0x", 255, -EINVAL, 0 },
		{ "0x0x1", 255, -EINVAL, 0 },
		{ "g", 255, -EINVAL, 0 },
		{ "-f", 255, -EINVAL, 0 },
		{ "f ", 255, -EINVAL, 0 },
	};

	check_rows(rows, COUNT(rows), cs_parse_hex);
}

static int parse_bytes(const char *text, uint64_t max, uint64_t *ret)
{
	return cs_parse_bytes(text, ret);
}

static void test_sizes(void **state)
{
	static const struct row rows[] = {
		{ "0", 0, 0, 0 },
		{ "512", 0, 0, 512 },
		{ "512B", 0, 0, 512 },
		{ "1k", 0, 0, 1024 },
		{ "128M", 0, 0, 128 * CS_MIB },
		{ "128MB", 0, 0, 128 * CS_MIB },
		{ "128MiB", 0, 0, 128 * CS_MIB },
		{ "2G", 0, 0, 2 * CS_GIB },
		{ "1T", 0, 0, CS_TIB },
		{ "16777215T", 0, 0, UINT64_C(16777215) * CS_TIB },
		{ "16777216T", 0, -ERANGE, 0 },
		{ ONE_TOO_MANY, 0, -ERANGE, 0 },
		{ "", 0, -EINVAL, 0 },
		{ "M", 0, -EINVAL, 0 },
		{ "1.5G", 0, -EINVAL, 0 },
		{ "-1M", 0, -EINVAL, 0 },
		{ "1MM", 0, -EINVAL, 0 },
		{ "1iB", 0, -EINVAL, 0 },
		{ "1Mi", 0, -EINVAL, 0 },
		{ "1 M", 0, -EINVAL, 0 },
		{ "1E", 0, -EINVAL, 0 },
	};

	check_rows(rows, COUNT(rows), parse_bytes);
}

static void test_format(void **state)
{
	char text[CS_BYTES_TEXT];

	assert_string_equal(cs_format_bytes(0, text), "0 B");
	assert_string_equal(cs_format_bytes(1023, text), "1023 B");
	assert_string_equal(cs_format_bytes(1024, text), "1.0 KiB");
	assert_string_equal(cs_format_bytes(40160461, text), "38.3 MiB");
	assert_string_equal(cs_format_bytes(128 * CS_MIB, text), "128.0 MiB");
	assert_string_equal(cs_format_bytes(UINT64_MAX, text), "16384.0 PiB");
}

static void test_arithmetic(void **state)
{
	uint64_t value = UNTOUCHED;

	assert_true(cs_add_u64(UINT64_MAX - 1, 1, &value));
	assert_int_equal(value, UINT64_MAX);
	value = UNTOUCHED;
	assert_false(cs_add_u64(UINT64_MAX, 1, &value));
	assert_false(cs_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &value));
	assert_int_equal(value, UNTOUCHED);
	assert_true(cs_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 31, &value));
	assert_int_equal(value, UINT64_C(1) << 63);

	assert_int_equal(cs_align_up(0, 4096), 0);
	assert_int_equal(cs_align_up(1, 4096), 4096);
	assert_int_equal(cs_align_up(4096, 4096), 4096);
	assert_int_equal(cs_align_up(UINT64_MAX, 4096), UINT64_MAX - 4095);
	assert_int_equal(cs_align_up(UINT64_MAX - 4095, 4096), UINT64_MAX - 4095);
	assert_int_equal(cs_align_down(4097, 4096), 4096);
}

/* The check value of the catalogues, and that each flipped bit shows. */
static void test_crc(void **state)
{
	unsigned char data[64] = "123456789";
	const uint32_t whole = cs_crc32(data, sizeof(data));

	assert_int_equal(cs_crc32(data, 9), 0xcbf43926);
	assert_int_equal(cs_crc32(data, 0), 0);
	for (unsigned bit = 0; bit < 8 * sizeof(data); bit++) {
		data[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_int_not_equal(cs_crc32(data, sizeof(data)), whole);
		data[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_decimal),    cmocka_unit_test(test_hex),
		cmocka_unit_test(test_sizes),      cmocka_unit_test(test_format),
		cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_crc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
