/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One description, two forms: what people read and what programs read. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "store/base/report.h"

static const struct cs_column columns[] = {
	{ "name", "NAME", CS_CELL_TEXT },       { "ram_bytes", "MEMORY", CS_CELL_BYTES },
	{ "count", "N", CS_CELL_COUNT },        { "boot_ms", "BOOT", CS_CELL_MS },
	{ "created", "CREATED", CS_CELL_TIME }, { "ok", "OK", CS_CELL_BOOL },
	{ "cpu", "CPU", CS_CELL_PERCENT },      { "command", "COMMAND", CS_CELL_TEXT },
};

static struct cs_report *open_report(void)
{
	struct cs_report *report = NULL;

	assert_int_equal(
		cs_report_open(columns, sizeof(columns) / sizeof(columns[0]), &report, NULL), 0);
	return report;
}

static char *format(const struct cs_report *report, enum cs_format how)
{
	struct cs_err err = { .code = 0 };
	char *text = NULL;

	assert_int_equal(cs_report_format(report, how, &text, &err), 0);
	assert_non_null(text);
	return text;
}

static struct cs_report *two_rows(void)
{
	struct cs_report *report = open_report();

	cs_report_row(report);
	cs_report_text(report, "name", "web-1");
	cs_report_number(report, "ram_bytes", 134217728);
	cs_report_number(report, "count", 7);
	cs_report_number(report, "boot_ms", 12345);
	cs_report_number(report, "created", 86400);
	cs_report_number(report, "ok", 1);
	cs_report_real(report, "cpu", 0.034);
	cs_report_text(report, "command", "sleep 9");
	cs_report_row(report);
	cs_report_text(report, "name", "a-longer-name");
	cs_report_number(report, "ram_bytes", 512);
	cs_report_number(report, "ok", 0);
	cs_report_real(report, "boot_ms", 3.5);
	return report;
}

static void test_table(void **state)
{
	struct cs_report *report = two_rows();
	char *text = format(report, CS_FORMAT_TABLE);

	assert_string_equal(
		text, "NAME             MEMORY N    BOOT CREATED             OK     CPU COMMAND\n"
		      "web-1         128.0 MiB 7  12.3 s 1970-01-02 00:00:00 yes 0.03 % sleep 9\n"
		      "a-longer-name     512 B - 3.50 ms -                   no       - -\n");
	free(text);
	cs_report_free(report);
}

static void test_record(void **state)
{
	struct cs_report *report = two_rows();
	char *text = format(report, CS_FORMAT_RECORD);

	assert_string_equal(text, "NAME:    web-1\n"
				  "MEMORY:  128.0 MiB\n"
				  "N:       7\n"
				  "BOOT:    12.3 s\n"
				  "CREATED: 1970-01-02 00:00:00\n"
				  "OK:      yes\n"
				  "CPU:     0.03 %\n"
				  "COMMAND: sleep 9\n");
	free(text);
	cs_report_free(report);
}

static void test_json(void **state)
{
	struct cs_report *report = two_rows();
	char *text = format(report, CS_FORMAT_JSON);
	json_t *json = json_loads(text, 0, NULL), *row;

	assert_true(json_is_array(json));
	assert_int_equal(json_array_size(json), 2);
	row = json_array_get(json, 0);
	assert_int_equal(json_object_size(row), 8);
	assert_string_equal(json_string_value(json_object_get(row, "name")), "web-1");
	assert_int_equal(json_integer_value(json_object_get(row, "ram_bytes")), 134217728);
	assert_int_equal(json_integer_value(json_object_get(row, "created")), 86400);
	assert_true(json_is_true(json_object_get(row, "ok")));
	assert_true(fabs(json_real_value(json_object_get(row, "cpu")) - 0.034) < 1e-9);
	row = json_array_get(json, 1);
	assert_true(json_is_false(json_object_get(row, "ok")));
	assert_true(json_is_null(json_object_get(row, "command")));
	assert_int_equal(text[strlen(text) - 1], '\n');
	json_decref(json);
	free(text);

	text = format(report, CS_FORMAT_JSON_RECORD);
	json = json_loads(text, 0, NULL);
	assert_true(json_is_object(json));
	assert_int_equal(json_integer_value(json_object_get(json, "count")), 7);
	json_decref(json);
	free(text);
	cs_report_free(report);
}

static void test_no_rows(void **state)
{
	static const char *const want[] = { "", "", "[]\n", "null\n" };
	struct cs_report *report = open_report();

	for (int how = CS_FORMAT_TABLE; how <= CS_FORMAT_JSON_RECORD; how++) {
		char *text = format(report, (enum cs_format)how);

		assert_string_equal(text, want[how]);
		free(text);
	}
	cs_report_free(report);
}

/* A guest chooses what it is called inside and what it says: none of it may reach a terminal raw.
 */
static void test_hostile_text(void **state)
{
	static const char hostile[] = "a\033]0;title\007b\nc\xff\xc2\x9bz   ";
	struct cs_report *report = open_report();
	json_t *json;
	char *text;

	cs_report_row(report);
	cs_report_text(report, "name", "x");
	cs_report_text(report, "command", hostile);
	for (int how = CS_FORMAT_TABLE; how <= CS_FORMAT_JSON_RECORD; how++) {
		text = format(report, (enum cs_format)how);
		for (const unsigned char *p = (const unsigned char *)text; *p; p++)
			assert_true(*p == '\n' || (*p >= 0x20 && *p < 0x7f));
		assert_null(strstr(text, " \n"));
		if (how == CS_FORMAT_TABLE || how == CS_FORMAT_RECORD)
			assert_non_null(strstr(text, "a?]0;title?b c"));
		free(text);
	}
	/* a program gets the controls back, escaped on the way; bytes that are no UTF-8 not */
	text = format(report, CS_FORMAT_JSON_RECORD);
	json = json_loads(text, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(json, "command")),
			    "a\033]0;title\007b\nc?\xc2\x9bz   ");
	json_decref(json);
	free(text);
	cs_report_free(report);
}

static void test_odd_numbers(void **state)
{
	struct cs_report *report = open_report();
	char *text;

	cs_report_row(report);
	cs_report_number(report, "count", UINT64_MAX);
	cs_report_number(report, "created", UINT64_MAX);
	cs_report_number(report, "ram_bytes", UINT64_MAX);
	cs_report_real(report, "boot_ms", -1e300);
	cs_report_real(report, "cpu", NAN);
	text = format(report, CS_FORMAT_TABLE);
	assert_non_null(strstr(text, "18446744073709551615"));
	free(text);
	text = format(report, CS_FORMAT_JSON);
	assert_non_null(strstr(text, "\"cpu\": null"));
	assert_non_null(strstr(text, "\"count\": 9223372036854775807"));
	free(text);
	cs_report_free(report);
}

static void test_mistakes_stick(void **state)
{
	static const struct {
		const char *key;
		bool row;
	} rows[] = { { "nonesuch", true }, { "cpu", true }, { "name", true }, { "count", false } };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cs_report *report = open_report();
		struct cs_err err = { .code = 0 };
		char *text = (char *)1;

		if (rows[i].row)
			cs_report_row(report);
		cs_report_number(report, rows[i].key, 1);
		cs_report_row(report);
		cs_report_number(report, "count", 1);
		assert_int_equal(cs_report_format(report, CS_FORMAT_JSON, &text, &err), -EINVAL);
		assert_ptr_equal(text, (char *)1);
		assert_true(err.text[0]);
		cs_report_free(report);
	}
	assert_null(cs_report_free(NULL));
}

static void test_set_again(void **state)
{
	struct cs_report *report = open_report();
	char *text;

	cs_report_row(report);
	cs_report_text(report, "name", "one");
	cs_report_text(report, "name", "two");
	cs_report_text(report, "command", "x");
	cs_report_text(report, "command", NULL);
	text = format(report, CS_FORMAT_RECORD);
	assert_non_null(strstr(text, "two\n"));
	assert_null(strstr(text, "one"));
	assert_non_null(strstr(text, "COMMAND: -\n"));
	free(text);
	cs_report_free(report);
}

/* The columns stand under each other, whatever is in them and wherever it is shown. */
static void test_odd_text(void **state)
{
	static const struct cs_column two[] = { { "a", "A", CS_CELL_TEXT },
						{ "b", "B", CS_CELL_COUNT } };
	struct cs_report *report = NULL;
	char *text;

	assert_int_equal(cs_report_open(two, 2, &report, NULL), 0);
	cs_report_row(report);
	cs_report_text(report, "a", "\xc3\xa4\\xc\\y");
	cs_report_number(report, "b", 1);
	cs_report_row(report);
	cs_report_text(report, "a", "plain");
	cs_report_number(report, "b", 1000);
	text = format(report, CS_FORMAT_TABLE);
	assert_string_equal(text, "A                   B\n"
				  "\\xc3\\xa4\\x5cxc\\y    1\n"
				  "plain            1000\n");
	free(text);
	cs_report_free(report);
}

static void test_elided(void **state)
{
	struct cs_report *report = open_report();
	char *with, *without;
	json_t *json;

	cs_report_elide(report, "created");
	cs_report_row(report);
	cs_report_text(report, "name", "x");
	cs_report_text(report, "command", "y");
	without = format(report, CS_FORMAT_TABLE);
	assert_string_equal(without, "NAME MEMORY N BOOT OK CPU COMMAND\n"
				     "x         - -    - -    - y\n");
	/* who reads JSON gets each column, always */
	with = format(report, CS_FORMAT_JSON);
	json = json_loads(with, 0, NULL);
	assert_true(json_is_null(json_object_get(json_array_get(json, 0), "created")));
	json_decref(json);
	free(with);
	cs_report_row(report);
	cs_report_number(report, "created", 86400);
	with = format(report, CS_FORMAT_TABLE);
	assert_string_equal(with, "NAME MEMORY N BOOT CREATED             OK CPU COMMAND\n"
				  "x         - -    - -                   -    - y\n"
				  "-         - -    - 1970-01-02 00:00:00 -    - -\n");
	free(with);
	free(without);
	cs_report_free(report);

	report = open_report();
	cs_report_elide(report, "nonesuch");
	cs_report_row(report);
	assert_int_equal(cs_report_format(report, CS_FORMAT_TABLE, &with, NULL), -EINVAL);
	cs_report_free(report);
}

static void test_many_rows(void **state)
{
	struct cs_report *report = open_report();
	size_t lines = 0;
	char *text;

	for (uint64_t i = 0; i < 4000; i++) {
		cs_report_row(report);
		cs_report_text(report, "name", "web");
		cs_report_number(report, "count", i);
	}
	text = format(report, CS_FORMAT_TABLE);
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 4001);
	free(text);
	cs_report_free(report);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),          cmocka_unit_test(test_record),
		cmocka_unit_test(test_json),           cmocka_unit_test(test_no_rows),
		cmocka_unit_test(test_hostile_text),   cmocka_unit_test(test_odd_numbers),
		cmocka_unit_test(test_mistakes_stick), cmocka_unit_test(test_set_again),
		cmocka_unit_test(test_many_rows),      cmocka_unit_test(test_odd_text),
		cmocka_unit_test(test_elided),
	};

	setenv("TZ", "UTC", 1);
	tzset();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
