/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table that is watched: who is in it, its order, its lines, whose turn it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ksm/top.h"
#include "store/base/num.h"

static struct cs_top_row *put(struct cs_top *top, const char *name, pid_t pid, uint64_t cost)
{
	struct cs_top_row *row = cs_top_add(top, pid, name);

	assert_non_null(row);
	cs_top_meter(row,
		     &(struct cs_meter_guest){ .cost_bytes = cost, .private_bytes = 1000 - cost },
		     1000);
	return row;
}

static void assert_order(const struct cs_top *top, const char *want)
{
	char got[200] = "";

	for (size_t i = 0; i < top->n; i++) {
		strcat(got, i ? " " : "");
		strcat(got, top->row[i].name);
	}
	assert_string_equal(got, want);
}

static void test_order(void **state)
{
	struct cs_top top = { .by = CS_TOP_COST };

	cs_top_sort(&top); /* of none */
	put(&top, "web-10", 1, 500);
	put(&top, "web-2", 2, 500);
	put(&top, "db", 3, 900);
	put(&top, "a", 4, 100);
	cs_top_sort(&top);
	assert_order(&top, "db web-2 web-10 a");
	top.reverse = true;
	cs_top_sort(&top);
	assert_order(&top, "a web-10 web-2 db");
	top.by = CS_TOP_NAME;
	top.reverse = false;
	cs_top_sort(&top);
	assert_order(&top, "a db web-2 web-10");
	top.by = CS_TOP_PRIVATE;
	cs_top_sort(&top);
	assert_order(&top, "a web-2 web-10 db");
	cs_top_find(&top, 3, "db")->cpu_percent = 5;
	top.by = CS_TOP_CPU;
	cs_top_sort(&top);
	assert_order(&top, "db a web-2 web-10");
	cs_top_clear(&top);
}

static void test_come_and_go(void **state)
{
	struct cs_top top = { .by = CS_TOP_NAME };
	char name[32];

	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "g-%d", i);
		put(&top, name, i + 1, 1);
	}
	cs_top_begin(&top);
	for (int i = 0; i < 300; i += 100) {
		snprintf(name, sizeof(name), "g-%d", i);
		cs_top_find(&top, i + 1, name)->seen = true;
	}
	assert_null(cs_top_find(&top, 1, "g-1")); /* another guest has the pid now */
	assert_non_null(cs_top_add(&top, 1, "new"));
	cs_top_end(&top);
	assert_order(&top, "g-0 g-100 g-200 new");
	cs_top_clear(&top);
}

static void test_turns(void **state)
{
	struct cs_top top = { .by = CS_TOP_NAME };
	char name[32];

	assert_null(cs_top_due(&top, 0, 10, 5000, 1000));
	for (int i = 0; i < 9; i++) {
		snprintf(name, sizeof(name), "g-%d", i);
		put(&top, name, i + 1, 1)->metered_ms = 1000 + i;
	}
	/* all fresh */
	assert_null(cs_top_due(&top, 0, 3, 1500, 1000));
	/* those on the screen first, the oldest of them */
	assert_string_equal(cs_top_due(&top, 4, 3, 9000, 1000)->name, "g-4");
	for (int i = 4; i < 7; i++)
		top.row[i].metered_ms = 9000;
	assert_string_equal(cs_top_due(&top, 4, 3, 9000, 1000)->name, "g-0");
	/* never read goes before read */
	top.row[8].metered_ms = 0;
	assert_string_equal(cs_top_due(&top, 4, 3, 9000, 1000)->name, "g-8");
	assert_string_equal(cs_top_due(&top, 100, 3, 9000, 1000)->name, "g-8");
	cs_top_clear(&top);
}

static void test_cpu(void **state)
{
	struct cs_top_row row = { .pid = 1 };

	cs_top_cpu(&row, 500, 1000);
	assert_true(row.cpu_percent == 0);
	cs_top_cpu(&row, 600, 2000);
	assert_true(row.cpu_percent == 10);
	cs_top_cpu(&row, 700, 2000); /* no time has passed */
	assert_true(row.cpu_percent == 10);
	cs_top_cpu(&row, 100, 3000); /* runs backwards */
	assert_true(row.cpu_percent == 10);
}

static void test_history(void **state)
{
	struct cs_top top = { .by = CS_TOP_NAME };
	char text[CS_TOP_HISTORY + 1];

	cs_top_history(&top, 5, text);
	assert_string_equal(text, "     ");
	cs_top_remember(&top, 7);
	cs_top_history(&top, 5, text);
	assert_string_equal(text, "    _");
	cs_top_remember(&top, 0);
	cs_top_remember(&top, 3);
	cs_top_history(&top, 5, text);
	assert_string_equal(text, "  @_=");
	for (uint64_t i = 0; i < 2 * CS_TOP_HISTORY; i++)
		cs_top_remember(&top, UINT64_MAX - i);
	cs_top_history(&top, 3, text);
	assert_int_equal(text[0], '@');
	assert_int_equal(text[2], '_');
	cs_top_history(&top, CS_TOP_HISTORY, text);
	assert_int_equal(strlen(text), CS_TOP_HISTORY);
}

static void test_lines(void **state)
{
	struct cs_top top = { .by = CS_TOP_COST };
	struct cs_top_row *row = cs_top_add(&top, 7, "a-name-that-is-much-longer-than-its-column");
	char text[600];
	size_t from, to;

	cs_top_head(&top, 80, text, &from, &to);
	assert_int_equal(strlen(text), 80);
	assert_memory_equal(text + from, "COST", to - from);
	assert_non_null(strstr(text, "TABLES")); /* all fit into 80 */
	cs_top_line(row, 80, text);
	assert_int_equal(strlen(text), 80);
	assert_non_null(strstr(text, "        -"));
	cs_top_meter(row,
		     &(struct cs_meter_guest){ .cost_bytes = 40265318,
					       .private_bytes = 512 * CS_KIB,
					       .merged_bytes = UINT64_MAX,
					       .shared_bytes = 1500 * CS_MIB },
		     1);
	cs_top_line(row, 80, text);
	assert_int_equal(strlen(text), 80);
	assert_non_null(strstr(text, "    38.4M     512K    16.0E       0K     1.5G"));
	/* whatever the width */
	for (size_t width = 0; width < 500; width++) {
		cs_top_head(&top, width, text, &from, &to);
		assert_int_equal(strlen(text), width);
		assert_true(from <= to && to <= width);
		cs_top_line(row, width, text);
		assert_int_equal(strlen(text), width);
	}
	cs_top_clear(&top);
}

static void test_letters(void **state)
{
	assert_int_equal(cs_top_column_of('c'), CS_TOP_COST);
	assert_int_equal(cs_top_column_of('U'), CS_TOP_CPU);
	assert_int_equal(cs_top_column_of('x'), CS_TOP_COLUMNS);
	assert_int_equal(cs_top_column_named("c"), CS_TOP_COST);
	assert_int_equal(cs_top_column_named("cpu"), CS_TOP_CPU);
	assert_int_equal(cs_top_column_named("Merged"), CS_TOP_MERGED);
	assert_int_equal(cs_top_column_named("size"), CS_TOP_COLUMNS);
	assert_int_equal(cs_top_column_named(""), CS_TOP_COLUMNS);
	for (enum cs_top_column a = CS_TOP_NAME; a < CS_TOP_COLUMNS; a++) /* none twice */
		assert_int_equal(cs_top_column_of(cs_top_title(a)[0]), a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order),   cmocka_unit_test(test_come_and_go),
		cmocka_unit_test(test_turns),   cmocka_unit_test(test_cpu),
		cmocka_unit_test(test_history), cmocka_unit_test(test_lines),
		cmocka_unit_test(test_letters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
