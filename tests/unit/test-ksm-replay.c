/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Traces, written, read and replayed. */
#include <errno.h>

#include "ksm/replay.h"
#include "tests/unit/scratch.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))
#define MIB      (INT64_C(1) << 20)

static const struct cs_ksm_limits limits = CS_KSM_LIMITS_DEFAULT;

static void test_round_trip(void **state)
{
	char text[3 * CS_KSM_TRACE_LINE], line[CS_KSM_TRACE_LINE];
	struct cs_ksm_trace trace;
	struct cs_ksm_row row = { cs_ksm_sample_unknown(), cs_ksm_setting_unknown() };
	size_t n;
	const struct cs_ksm_field *fields = cs_ksm_sample_fields(&n);

	assert_int_equal(cs_ksm_trace_head(line), 0);
	snprintf(text, sizeof(text), "%s", line);
	row.seen.at_ms = 5;
	row.set.run = 1;
	assert_int_equal(cs_ksm_trace_line(&row, line), 0);
	strcat(text, line);
	/* the longest there is */
	for (size_t i = 0; i < n; i++)
		cs_ksm_field_set(&row.seen, &fields[i], INT64_MAX);
	row.seen.profit_bytes = INT64_MIN + 1;
	row.set.advisor_target_scan_s = 200;
	assert_int_equal(cs_ksm_trace_line(&row, line), 0);
	strcat(text, line);
	assert_int_equal(cs_ksm_trace_parse(text, &trace, NULL), 0);
	assert_int_equal(trace.n, 2);
	assert_int_equal(trace.row[0].seen.at_ms, 5);
	assert_true(trace.row[0].seen.pages_shared == CS_KSM_UNKNOWN);
	assert_int_equal(trace.row[0].set.run, 1);
	assert_true(trace.row[0].set.sleep_ms == CS_KSM_UNKNOWN);
	assert_memory_equal(&trace.row[1], &row, sizeof(row));
	cs_ksm_trace_clear(&trace);
}

static void test_broken(void **state)
{
	static const struct {
		const char *text;
		int r;
		size_t rows;
	} rows[] = {
		{ "at_ms,pages_shared\n1,2\n", 0, 1 },
		{ "whatever,at_ms\n1,2\n9,9\n", 0, 2 },
		{ "at_ms\n1\n", 0, 1 },
		{ "at_ms,pages_shared\n1,\n2,3\n3,4", 0, 2 }, /* cut off by a crash */
		{ "", -EINVAL, 0 },
		{ "at_ms", -EINVAL, 0 },
		{ "at_ms\n", -EINVAL, 0 },
		{ "pages_shared\n1\n", -EINVAL, 0 },
		{ "at_ms,pages_shared\n1\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n1,2,3\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n1,x\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n1,-2\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n1,99999999999999999999\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n,2\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n5,2\n4,2\n", -EBADMSG, 0 },
		{ "at_ms,pages_shared\n5,2\n\n", -EBADMSG, 0 },
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct cs_ksm_trace trace = { .n = 77 };
		struct cs_err err = { 0 };
		char text[200];

		snprintf(text, sizeof(text), "%s", rows[i].text);
		assert_int_equal(cs_ksm_trace_parse(text, &trace, &err), rows[i].r);
		assert_int_equal(trace.n, rows[i].r ? 77 : rows[i].rows);
		assert_int_equal(err.code, -rows[i].r);
		if (!rows[i].r)
			cs_ksm_trace_clear(&trace);
	}
}

/* (minutes) of guests that come in the first half minute, up to (mib), of which (alike) merges, as
 * an unlimited scan has it: merged 20 s later. (churn): pages that are written to again, a second.
 */
static struct cs_ksm_trace record(int64_t minutes, int64_t mib, double alike, int64_t churn)
{
	struct cs_ksm_trace trace = { .n = (size_t)minutes * 60 };

	trace.row = calloc(trace.n, sizeof(*trace.row));
	assert_non_null(trace.row);
	for (size_t i = 0; i < trace.n; i++) {
		const int64_t now = (int64_t)i < 30 ? mib * (int64_t)i / 30 : mib;
		const int64_t then = (int64_t)i < 20   ? 0
				     : (int64_t)i < 50 ? mib * ((int64_t)i - 20) / 30
						       : mib;

		trace.row[i].seen = (struct cs_ksm_sample){
			.at_ms = 1000000 + (int64_t)i * 1000,
			.enrolled_bytes = now * MIB,
			.pages_sharing = (int64_t)((double)(then * MIB / 4096) * alike),
			.pages_scanned = (int64_t)i * 400000,
			.ksmd_us = (int64_t)i * 800000,
			.total_bytes = 16384 * MIB,
			.available_bytes = 8192 * MIB,
			.cow_ksm = churn * (int64_t)i,
		};
	}
	return trace;
}

static struct cs_ksm_replay replay(const struct cs_ksm_trace *trace, const char *policy)
{
	struct cs_ksm_trace out = { .n = 0 };
	struct cs_ksm_replay got;

	assert_int_equal(
		cs_ksm_replay(trace, cs_ksm_policy_find(policy), &limits, &got, &out, NULL), 0);
	assert_true(out.n > 10);
	assert_int_equal(out.row[out.n - 1].seen.at_ms, trace->row[trace->n - 1].seen.at_ms);
	cs_ksm_trace_clear(&out);
	return got;
}

/* 40 guests: what ours saves of the possible, and for how much. */
static void test_compare(void **state)
{
	struct cs_ksm_trace trace = record(30, 2000, 0.4, 0);
	const struct cs_ksm_replay most = replay(&trace, "unlimited"),
				   ours = replay(&trace, "yield");
	const struct cs_ksm_replay kernel = replay(&trace, "kernel");
	const struct cs_ksm_replay advisor = replay(&trace, "advisor");
	const struct cs_ksm_replay off = replay(&trace, "off");
	const int64_t possible = 2000 * MIB / 4096 * 4 / 10;

	assert_in_range(most.saved_pages, possible - 10, possible + 10);
	assert_in_range(most.saved_pages, most.possible_pages - 1, most.possible_pages + 1);
	/* a core, for half an hour */
	assert_in_range(most.ksmd_us, 1500000000, 1800000000);
	assert_in_range(ours.saved_pages, possible * 9 / 10, possible + 10);
	assert_in_range(ours.to_90_ms, 1, 90000);
	assert_true(ours.ksmd_us < kernel.ksmd_us / 2);
	assert_true(ours.ksmd_us < advisor.ksmd_us / 2);
	assert_true(ours.to_90_ms < kernel.to_90_ms);
	assert_int_equal(off.saved_pages, 0);
	assert_int_equal(off.ksmd_us, 0);
	assert_int_equal(off.to_90_ms, -1);
	cs_ksm_trace_clear(&trace);
}

/* What never merges: then the right thing is to stop. */
static void test_never(void **state)
{
	struct cs_ksm_trace trace = record(60, 2000, 0, 0);
	const struct cs_ksm_replay ours = replay(&trace, "yield"),
				   kernel = replay(&trace, "kernel");

	assert_int_equal(ours.saved_pages, 0);
	assert_true(ours.ksmd_us * 3 < kernel.ksmd_us);
	cs_ksm_trace_clear(&trace);
}

static void test_churn(void **state)
{
	struct cs_ksm_trace trace = record(30, 2000, 0.4, 500);
	const struct cs_ksm_replay ours = replay(&trace, "yield");

	assert_true(ours.mean_pages > ours.possible_pages / 2);
	cs_ksm_trace_clear(&trace);
}

static void test_nonsense(void **state)
{
	static const char *const texts[] = {
		"at_ms\n1\n",
		"at_ms,enrolled_bytes\n0,1\n999999999999,1\n",
		"at_ms,enrolled_bytes\n0,9223372036854775807\n1000,1\n",
		"at_ms,enrolled_bytes,pages_sharing,zero_pages\n0,1,9223372036854775807,"
		"9223372036854775807\n",
	};

	for (size_t i = 0; i < N(texts); i++) {
		struct cs_ksm_trace trace;
		struct cs_ksm_replay got;
		char text[200];

		snprintf(text, sizeof(text), "%s", texts[i]);
		assert_int_equal(cs_ksm_trace_parse(text, &trace, NULL), 0);
		assert_int_equal(
			cs_ksm_replay(&trace, &cs_ksm_policies[0], &limits, &got, NULL, NULL),
			-EINVAL);
		cs_ksm_trace_clear(&trace);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_broken),
		cmocka_unit_test(test_compare),    cmocka_unit_test(test_never),
		cmocka_unit_test(test_churn),      cmocka_unit_test(test_nonsense),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
