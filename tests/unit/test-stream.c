/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A state's bytes: round trips, and bytes that are none. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/stream.h"

#define HEAD     16 /* bytes of the file's head */
#define CHECKSUM 12 /* where it is there */
#define SECTION  24 /* of a section's */

struct thing {
	uint32_t number;
	char text[5];
	bool flag;
	uint64_t more;
};

static const struct thing whole = { 7, "four", true, UINT64_C(0x123456789abcdef0) };

static void describe(struct cs_stream *s, struct thing *thing)
{
	cs_stream_section(s, "first", 3);
	cs_stream_field(s, thing->number);
	cs_stream_require(s, thing->number < 100, "number");
	cs_stream_bytes(s, "text", thing->text, sizeof(thing->text));
	cs_stream_section(s, "second", 1);
	cs_stream_flag(s, "flag", &thing->flag);
	cs_stream_field(s, thing->more);
}

static struct cs_stream *save(void)
{
	struct cs_stream *s = cs_stream_create();
	struct thing thing = whole;

	assert_non_null(s);
	assert_true(cs_stream_saves(s));
	describe(s, &thing);
	return s;
}

/* Load from a copy of just so many bytes: what is read behind it, a sanitizer sees. */
static int load(const void *data, size_t bytes, struct thing *ret, struct cs_err *err)
{
	void *copy = malloc(bytes);
	struct cs_stream *s;
	int r;

	memcpy(copy, data, bytes);
	s = cs_stream_open(copy, bytes);
	assert_non_null(s);
	assert_false(cs_stream_saves(s));
	describe(s, ret);
	*err = (struct cs_err){ 0 };
	r = cs_stream_end(s, err);
	assert_int_equal(r < 0 ? -r : 0, err->code);
	if (r < 0)
		assert_memory_equal(err->text, "state: ", 7);
	cs_stream_free(s);
	free(copy);
	return r;
}

static void test_round_trip(void **state)
{
	struct cs_stream *s = save();
	struct thing thing = { 0 };
	struct cs_err err = { 0 };
	const void *data;
	size_t bytes;

	assert_int_equal(cs_stream_end(s, &err), 0);
	data = cs_stream_data(s, &bytes);
	assert_int_equal(bytes, HEAD + 3 * SECTION + 4 + 5 + 1 + 8);
	assert_int_equal(load(data, bytes, &thing, &err), 0);
	assert_int_equal(thing.number, whole.number);
	assert_string_equal(thing.text, whole.text);
	assert_true(thing.flag);
	assert_int_equal(thing.more, whole.more);
	cs_stream_free(s);
}

/* Every length but the right one, and every bit but the values' own. */
static void test_broken(void **state)
{
	struct cs_stream *s = save();
	struct thing thing = whole;
	struct cs_err err = { 0 };
	uint8_t bad[512];
	const void *data;
	size_t bytes;
	unsigned loaded = 0;

	assert_int_equal(cs_stream_end(s, &err), 0);
	data = cs_stream_data(s, &bytes);
	assert_true(bytes + 1 < sizeof(bad));
	memcpy(bad, data, bytes);
	bad[bytes] = 0;
	for (size_t n = 0; n < bytes; n++)
		assert_int_equal(load(data, n, &thing, &err), -EBADMSG);
	assert_int_equal(load(bad, bytes + 1, &thing, &err), -EBADMSG);
	for (size_t bit = 0; bit < 8 * bytes; bit++) {
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
		/* Of what a load takes for a state of this version, the checksum finds each. */
		assert_int_equal(cs_stream_check(bad, bytes, &err),
				 bit < 8 * CHECKSUM ? 0 : -EBADMSG);
		if (load(bad, bytes, &thing, &err) == 0)
			loaded++;
		else
			assert_true(err.code == EBADMSG || err.code == ESTALE);
		bad[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(cs_stream_check(data, bytes, &err), 0);
	/* Those of text and more, the flag, of number, which is 7 and under 100, bits 0 to 6, and
	 * of the checksum, which a load does not look at. */
	assert_int_equal(loaded, 8 * 13 + 1 + 7 + 32);
	cs_stream_free(s);
}

static void test_versions(void **state)
{
	struct cs_stream *s = save();
	struct thing thing = whole;
	struct cs_err err = { 0 };
	uint8_t bad[512];
	const void *data;
	size_t bytes;

	assert_int_equal(cs_stream_end(s, &err), 0);
	data = cs_stream_data(s, &bytes);
	memcpy(bad, data, bytes);
	bad[8]++;
	assert_int_equal(load(bad, bytes, &thing, &err), -ESTALE);
	assert_non_null(strstr(err.text, "format 3"));
	bad[8]--;
	bad[HEAD + CS_STREAM_NAME]++;
	assert_int_equal(load(bad, bytes, &thing, &err), -ESTALE);
	assert_non_null(strstr(err.text, "first is of version 4"));
	bad[HEAD + CS_STREAM_NAME]--;
	bad[HEAD] ^= 1;
	assert_int_equal(load(bad, bytes, &thing, &err), -EBADMSG);
	bad[HEAD] ^= 1;
	bad[0] ^= 1;
	assert_int_equal(load(bad, bytes, &thing, &err), -EBADMSG);
	assert_string_equal(err.text, "state: not a machine's state");
	cs_stream_free(s);
}

/* Sections that are used up too little or too much. */
static void test_lengths(void **state)
{
	struct cs_stream *saved = save(), *s;
	struct cs_err err = { 0 };
	uint64_t wide = 1, kept = 1;
	const void *data;
	size_t bytes;

	assert_int_equal(cs_stream_end(saved, &err), 0);
	data = cs_stream_data(saved, &bytes);
	s = cs_stream_open(data, bytes);
	cs_stream_section(s, "first", 3);
	cs_stream_field(s, wide);
	assert_true(cs_stream_good(s));
	cs_stream_section(s, "second", 1); /* a byte is left */
	assert_false(cs_stream_good(s));
	cs_stream_field(s, kept); /* no-op from here on */
	assert_int_equal(kept, 1);
	cs_stream_refuse(s, ESTALE, "too late");
	assert_int_equal(cs_stream_end(s, &err), -EBADMSG);
	assert_string_equal(err.text, "state: broken: first is longer than it should be");
	cs_stream_free(s);

	s = cs_stream_open(data, bytes);
	cs_stream_section(s, "first", 3);
	cs_stream_field(s, wide);
	cs_stream_field(s, kept); /* reaches into the next section */
	assert_int_equal(kept, 1);
	assert_int_equal(cs_stream_end(s, &err), -EBADMSG);
	cs_stream_free(s);
	cs_stream_free(saved);
}

/* Saving fails as loading does: what cannot be told is no state. */
static void test_saving_fails(void **state)
{
	struct cs_stream *s = save();
	struct cs_err err = { 0 };
	size_t bytes;
	void *huge;

	cs_stream_refuse(s, EIO, "vCPU %d does not tell", 4);
	assert_int_equal(cs_stream_end(s, &err), -EIO);
	assert_string_equal(err.text, "state: vCPU 4 does not tell");
	cs_stream_free(s);

	s = cs_stream_create();
	huge = calloc(1, CS_STREAM_BYTES_MAX);
	cs_stream_section(s, "huge", 1);
	cs_stream_bytes(s, "huge", huge, CS_STREAM_BYTES_MAX);
	assert_int_equal(cs_stream_end(s, &err), -EFBIG);
	cs_stream_data(s, &bytes);
	assert_true(bytes < 100);
	cs_stream_free(s);
	free(huge);
	assert_null(cs_stream_free(NULL));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_broken),
		cmocka_unit_test(test_versions),     cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_saving_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
