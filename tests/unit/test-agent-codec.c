/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the agent makes of payloads, also of those that nobody well-meaning would send. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vmm/guest/agent/codec.h"
#include "vmm/guest/agent/config.h"
#include "vmm/guest/agent/queue.h"

/* A copy without a byte to spare, so that a sanitizer sees the first one too many. */
static void *exact(const void *data, size_t bytes)
{
	void *copy = malloc(bytes ? bytes : 1);

	assert_non_null(copy);
	memcpy(copy, data, bytes);
	return copy;
}

static void test_numbers_and_bytes(void **state)
{
	uint8_t *p = exact("\x01\x02\x03\x04\xff", 5);
	struct cs_reader r = cs_reader_over(p, 5);
	uint8_t one = 7;

	assert_int_equal(cs_reader_u32(&r), 0x04030201);
	assert_false(cs_reader_done(&r));
	cs_reader_bytes(&r, &one, 1);
	assert_int_equal(one, 0xff);
	assert_true(cs_reader_done(&r));

	cs_reader_bytes(&r, &one, 1);
	assert_int_equal(one, 0);
	assert_false(cs_reader_done(&r));
	free(p);
}

static void test_number_cut_short(void **state)
{
	for (size_t n = 0; n < 4; n++) {
		uint8_t *p = exact("\xff\xff\xff\xff", n);
		struct cs_reader r = cs_reader_over(p, n);

		assert_int_equal(cs_reader_u32(&r), 0);
		assert_true(r.bad);
		free(p);
	}
}

static void test_strings(void **state)
{
	char *p = exact("one\0\0two", 8);
	struct cs_reader r = cs_reader_over(p, 8);

	assert_string_equal(cs_reader_string(&r), "one");
	assert_string_equal(cs_reader_string(&r), "");
	assert_false(r.bad);
	/* "two" has no NUL: it is no string, and nothing after it is anything. */
	assert_string_equal(cs_reader_string(&r), "");
	assert_true(r.bad);
	assert_int_equal(cs_reader_u32(&r), 0);
	assert_false(cs_reader_done(&r));
	free(p);
}

static void test_empty_payload(void **state)
{
	struct cs_reader r = cs_reader_over(NULL, 0);

	assert_true(cs_reader_done(&r));
	assert_string_equal(cs_reader_string(&r), "");
	assert_null(cs_reader_list(&r));
	assert_false(cs_reader_done(&r));
}

static void test_list(void **state)
{
	char *p = exact("\x03\0\0\0a\0\0ccc", 11);
	struct cs_reader r = cs_reader_over(p, 11);
	char **list = cs_reader_list(&r);

	assert_non_null(list);
	assert_string_equal(list[0], "a");
	assert_string_equal(list[1], "");
	assert_string_equal(list[2], "ccc");
	assert_null(list[3]);
	assert_true(cs_reader_done(&r));
	free(list);
	free(p);
}

static void test_empty_list(void **state)
{
	struct cs_reader r = cs_reader_over("\0\0\0\0", 4);
	char **list = cs_reader_list(&r);

	assert_non_null(list);
	assert_null(list[0]);
	assert_true(cs_reader_done(&r));
	free(list);
}

static void test_list_counts_that_lie(void **state)
{
	static const uint32_t counts[] = { 3,          7,          0x7fffffff, 0x80000000,
					   0x1fffffff, 0x20000000, 0xfffffffe, 0xffffffff };

	for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
		uint8_t raw[8] = { 0, 0, 0, 0, 'a', 0, 'b', 0 }, *p;
		struct cs_reader r;

		memcpy(raw, &counts[i], 4);
		p = exact(raw, sizeof(raw));
		r = cs_reader_over(p, sizeof(raw));
		assert_null(cs_reader_list(&r));
		assert_true(r.bad);
		free(p);
	}
}

static void test_list_without_last_nul(void **state)
{
	char *p = exact("\x02\0\0\0a\0b", 7);
	struct cs_reader r = cs_reader_over(p, 7);

	assert_null(cs_reader_list(&r));
	assert_true(r.bad);
	free(p);
}

static void test_head(void **state)
{
	uint8_t raw[CS_HEAD_BYTES];
	struct cs_wire_head head;

	cs_head_put(raw, CS_WIRE_EXEC, 0x01020304);
	assert_memory_equal(raw, "\x12\0\0\0\x04\x03\x02\x01", 8);
	head = cs_head_get(raw);
	assert_int_equal(head.type, CS_WIRE_EXEC);
	assert_int_equal(head.bytes, 0x01020304);
}

/* ---- CONFIG ---- */

static size_t make_config(uint8_t *into, const char *hostname)
{
	struct cs_wire_config head = { .realtime_ns = 1700000000123456789, .flags = 3 };
	static const char lists[] = "\x02\0\0\0sh\0-c\0\x01\0\0\0A=b";
	size_t n = sizeof(head);

	memset(head.seed, 0x5a, sizeof(head.seed));
	memcpy(into, &head, n);
	memcpy(into + n, hostname, strlen(hostname) + 1);
	n += strlen(hostname) + 1;
	memcpy(into + n, lists, sizeof(lists));
	return n + sizeof(lists);
}

static void test_config(void **state)
{
	uint8_t raw[300];
	size_t n = make_config(raw, "web-1");
	struct cs_config c;

	assert_int_equal(cs_config_parse(&c, raw, n), 0);
	assert_true(c.realtime_ns == 1700000000123456789);
	assert_int_equal(c.flags, CS_WIRE_CONFIG_PERSIST | CS_WIRE_CONFIG_INIT);
	assert_int_equal(c.seed[31], 0x5a);
	assert_string_equal(c.hostname, "web-1");
	assert_string_equal(c.argv[1], "-c");
	assert_null(c.argv[2]);
	assert_string_equal(c.env[0], "A=b");
	cs_config_forget_command(&c);
	assert_null(c.argv);
}

/* Every shorter payload, and one that is longer, is refused, and none is read past its end. */
static void test_config_cut_short(void **state)
{
	uint8_t raw[300];
	size_t n = make_config(raw, "web-1");

	for (size_t i = 0; i <= n + 1; i++) {
		uint8_t *p = exact(raw, i);
		struct cs_config c = { .flags = 99 };

		if (i != n) {
			assert_int_equal(cs_config_parse(&c, p, i), -EPROTO);
			assert_int_equal(c.flags, 99);
		}
		free(p);
	}
}

static void test_config_hostnames(void **state)
{
	static const char *const bad[] = { "a b",
					   "a\nb",
					   "a/b",
					   "\x1b[0m",
					   "\xc3\xa4",
					   "0123456789012345678901234567890123456789"
					   "0123456789012345678901234" };
	static const char *const good[] = { "", "a", "web-1.example_2",
					    "0123456789012345678901234567890123456789"
					    "012345678901234567890123" };
	struct cs_config c;
	uint8_t raw[300];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_int_equal(cs_config_parse(&c, raw, make_config(raw, bad[i])), -EPROTO);
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		assert_int_equal(cs_config_parse(&c, raw, make_config(raw, good[i])), 0);
		assert_string_equal(c.hostname, good[i]);
		cs_config_forget_command(&c);
	}
}

/* ---- the queue ---- */

static void test_queue_keeps_order(void **state)
{
	struct cs_queue q = { 0 };
	uint8_t next_in = 0, next_out = 0;

	for (size_t round = 1; round < 200; round++) {
		uint8_t part[200];

		for (size_t i = 0; i < round; i++)
			part[i] = next_in++;
		assert_int_equal(cs_queue_put(&q, part, round), 0);
		for (size_t i = 0; i < round / 2; i++) {
			assert_int_equal(*cs_queue_at(&q), next_out++);
			cs_queue_drop(&q, 1);
		}
	}
	while (cs_queue_bytes(&q)) {
		assert_int_equal(*cs_queue_at(&q), next_out++);
		cs_queue_drop(&q, 1);
	}
	assert_int_equal(next_in, next_out);
	assert_null(q.data);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers_and_bytes),
		cmocka_unit_test(test_number_cut_short),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_empty_payload),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_empty_list),
		cmocka_unit_test(test_list_counts_that_lie),
		cmocka_unit_test(test_list_without_last_nul),
		cmocka_unit_test(test_head),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_config_cut_short),
		cmocka_unit_test(test_config_hostnames),
		cmocka_unit_test(test_queue_keeps_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
