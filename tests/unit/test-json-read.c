/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flat JSON: what is read, what is refused, and that libjansson reads the same. */
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/base/json-read.h"

/* In memory of its own without a NUL, so that a sanitizer sees who reads on. */
static int read_exactly(const char *text, size_t bytes, struct cs_json *json, char **ret)
{
	*ret = malloc(bytes + !bytes);
	assert_non_null(*ret);
	memcpy(*ret, text, bytes);
	return cs_json_read(*ret, bytes, json);
}

static int read_only(const char *text)
{
	struct cs_json json;
	char *copy;
	int r = read_exactly(text, strlen(text), &json, &copy);

	free(copy);
	return r;
}

static void test_values(void **state)
{
	static const char text[] = " {\"a\": -12, \"b\":{\"c\":[1,[2],{}],\"d\":true},\r\n\t"
				   "\"e\":\"x\",\"f\":false,\"g\":null,\"h\":-0.5e+3,\"\":[]} \n";
	static const char *const keys[] = { "a", "b", "e", "f", "g", "h", "" };
	const struct cs_json_value *top, *at;
	struct cs_json json;
	size_t n = 0;

	assert_int_equal(cs_json_read(text, strlen(text), &json), 0);
	top = json.value;
	assert_int_equal(top->kind, CS_JSON_OBJECT);
	assert_int_equal(top->span, json.n);
	cs_json_foreach(at, top)
	{
		assert_true(cs_json_is(at, keys[n]));
		assert_ptr_equal(cs_json_get(top, keys[n]), at + 1);
		n++;
	}
	assert_int_equal(n, 7);
	assert_int_equal(cs_json_get(top, "a")->integer, -12);
	at = cs_json_get(top, "b");
	assert_int_equal(cs_json_get(at, "c")->kind, CS_JSON_ARRAY);
	assert_int_equal(cs_json_get(at, "c")->span, 5);
	assert_int_equal(cs_json_get(at, "d")->kind, CS_JSON_TRUE);
	/* of the one inside, not of the one around */
	assert_null(cs_json_get(at, "e"));
	assert_null(cs_json_get(top, "c"));
	assert_null(cs_json_get(top, "x"));
	assert_int_equal(cs_json_get(top, "f")->kind, CS_JSON_FALSE);
	assert_int_equal(cs_json_get(top, "g")->kind, CS_JSON_NULL);
	assert_int_equal(cs_json_get(top, "h")->kind, CS_JSON_REAL);
	assert_int_equal(cs_json_get(top, "")->kind, CS_JSON_ARRAY);
}

static void test_integers(void **state)
{
	static const char text[] =
		"{\"a\":9223372036854775807,\"b\":-9223372036854775808,\"c\":-0}";
	struct cs_json json;

	assert_int_equal(cs_json_read(text, strlen(text), &json), 0);
	assert_true(cs_json_get(json.value, "a")->integer == INT64_MAX);
	assert_true(cs_json_get(json.value, "b")->integer == INT64_MIN);
	assert_int_equal(cs_json_get(json.value, "c")->integer, 0);
	assert_int_equal(read_only("{\"a\":9223372036854775808}"), -EBADMSG);
	assert_int_equal(read_only("{\"a\":-9223372036854775809}"), -EBADMSG);
}

static void test_texts(void **state)
{
	static const struct {
		const char *written, *meant;
	} texts[] = {
		{ "", "" },
		{ "plain \x7f", "plain \x7f" },
		{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80" },
		{ "\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t" },
		{ "a\\u0041\\u00e4\\u20AC\\ud83d\\uDE00z",
		  "aA\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z" },
	};
	char text[200], got[100];
	struct cs_json json;
	int bytes;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		snprintf(text, sizeof(text), "{\"a\":\"%s\"}", texts[i].written);
		assert_int_equal(cs_json_read(text, strlen(text), &json), 0);
		bytes = (int)strlen(texts[i].meant);
		assert_int_equal(cs_json_text(&json.value[2], got, sizeof(got)), bytes);
		assert_string_equal(got, texts[i].meant);
		assert_int_equal(cs_json_text(&json.value[2], got, (size_t)bytes + 1), bytes);
		assert_int_equal(cs_json_text(&json.value[2], got, (size_t)bytes), -ENAMETOOLONG);
	}
}

static void test_refused(void **state)
{
	static const char *const texts[] = {
		"",
		" ",
		"[]",
		"1",
		"\"a\"",
		"{",
		"{}x",
		"{}{}",
		"{\"a\"}",
		"{\"a\":}",
		"{\"a\":1,}",
		"{,\"a\":1}",
		"{\"a\":1 \"b\":2}",
		"{a:1}",
		"{\"a\":1,\"b\":2,\"a\":3}",
		"{\"\\u0061\":1}",
		"{\"a\":[1,]}",
		"{\"a\":[1}",
		"{\"a\":01}",
		"{\"a\":+1}",
		"{\"a\":1.}",
		"{\"a\":.5}",
		"{\"a\":1e}",
		"{\"a\":-}",
		"{\"a\":tru}",
		"{\"a\":truex}",
		"{\"a\":True}",
		"{\"a\":\"\n\"}",
		"{\"a\":\"\\x\"}",
		"{\"a\":\"\\u12g4\"}",
		"{\"a\":\"\\u0000\"}",
		"{\"a\":\"\\ud83d\"}",
		"{\"a\":\"\\ud83d\\u0041\"}",
		"{\"a\":\"\\ude00\"}",
		"{\"a\":\"\xff\"}",
		"{\"a\":\"\xc3\"}",
		"{\"a\":\"\xc0\x80\"}",
		"{\"a\":\"\xed\xa0\x80\"}",
		"{\"a\":\"\\",
		"{\"a\":\"\\u12",
		"{\"a\":\"\xe2\x82",
		"{\"a\":\"\\ud83d\\",
		"\xef\xbb\xbf{}",
	};
	struct cs_json json;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (read_only(texts[i]) != -EBADMSG)
			fail_msg("'%s' was not refused", texts[i]);
	}
	assert_int_equal(cs_json_read("{\"a\"\0:1}", 8, &json), -EBADMSG);
	assert_int_equal(cs_json_read("{\n\"a\":\n1,\n}", 11, &json), -EBADMSG);
	assert_int_equal(json.line, 4);
}

static void test_bounds(void **state)
{
	char text[8 * CS_JSON_VALUES];
	size_t n;

	/* an object, a key, an array, its values */
	n = (size_t)sprintf(text, "{\"a\":[0");
	for (int i = 4; i < CS_JSON_VALUES; i++)
		n += (size_t)sprintf(text + n, ",0");
	strcpy(text + n, "]}");
	assert_int_equal(read_only(text), 0);
	strcpy(text + n, ",0]}");
	assert_int_equal(read_only(text), -E2BIG);

	for (int depth = CS_JSON_DEPTH; depth <= CS_JSON_DEPTH + 1; depth++) {
		n = (size_t)sprintf(text, "{\"a\":");
		memset(text + n, '[', (size_t)depth - 1);
		n += (size_t)depth - 1;
		memset(text + n, ']', (size_t)depth - 1);
		n += (size_t)depth - 1;
		strcpy(text + n, "}");
		assert_int_equal(read_only(text), depth <= CS_JSON_DEPTH ? 0 : -E2BIG);
	}
}

/* The two agree about each member. */
static void compare(const struct cs_json_value *object, const json_t *other)
{
	const struct cs_json_value *at;
	char text[200];
	size_t n = 0;

	cs_json_foreach(at, object)
	{
		const json_t *value;

		assert_true(cs_json_text(at, text, sizeof(text)) >= 0);
		value = json_object_get(other, text);
		assert_non_null(value);
		assert_int_equal(at[1].kind == CS_JSON_INTEGER, json_is_integer(value));
		assert_int_equal(at[1].kind == CS_JSON_TRUE, json_is_true(value));
		assert_int_equal(at[1].kind == CS_JSON_ARRAY, json_is_array(value));
		assert_int_equal(at[1].kind == CS_JSON_OBJECT, json_is_object(value));
		assert_int_equal(at[1].kind == CS_JSON_TEXT, json_is_string(value));
		if (json_is_integer(value))
			assert_true(at[1].integer == json_integer_value(value));
		if (json_is_object(value))
			compare(at + 1, value);
		if (json_is_string(value)) {
			assert_true(cs_json_text(at + 1, text, sizeof(text)) >= 0);
			assert_string_equal(text, json_string_value(value));
		}
		n++;
	}
	assert_int_equal(n, json_object_size(other));
}

/* A text with a few bytes changed is read by both or by none. */
static void test_as_jansson(void **state)
{
	static const char sample[] =
		"{\"a\": 10, \"ab\": -2.5e3, \"b\": {\"c\": "
		"\"x\\ud83d\\ude00\\\"\\u00e4\xc3\xa4\xe2"
		"\x82\xac\", \"d\": [true, false, null, {}]},\n \"e\": \"\", \"f\": {\"g\": 0, "
		"\"gg\": \"y\\\\\\/\"}}";
	static const char bytes[] = "{}[]\",:\\ue0123dDab -+.ntr\n\x01\x7f\x80\xc3\xa4\xe2\xf0\xff";
	unsigned seed = 1, read = 0, refused = 0;

	for (int i = 0; i < 100000; i++) {
		char text[sizeof(sample)];
		size_t n = sizeof(sample) - 1;
		struct cs_json json;
		json_error_t why;
		json_t *other;
		char *copy;
		int r;

		memcpy(text, sample, sizeof(sample));
		for (int changes = 1 + rand_r(&seed) % 3; changes; changes--)
			text[(size_t)rand_r(&seed) % n] =
				bytes[(size_t)rand_r(&seed) % (sizeof(bytes) - 1)];
		r = read_exactly(text, n, &json, &copy);
		other = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
		if (r == 0 && other)
			compare(json.value, other);
		/* they differ in an escape in a key, and in a number that is too large for a double
		 */
		else if (r == 0 ? json_error_code(&why) != json_error_numeric_overflow
				: other && !strchr(text, '\\'))
			fail_msg("%d, '%s': %s", r, other ? "" : why.text, text);
		read += r == 0;
		refused += r < 0;
		json_decref(other);
		free(copy);
	}
	assert_true(read > 1000 && refused > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values), cmocka_unit_test(test_integers),
		cmocka_unit_test(test_texts),  cmocka_unit_test(test_refused),
		cmocka_unit_test(test_bounds), cmocka_unit_test(test_as_jansson),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
