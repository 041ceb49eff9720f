/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the policies decide, in single decisions and in courses of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ksm/policy.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))
#define MIB      (INT64_C(1) << 20)
#define GIB      (INT64_C(1) << 30)

static const struct cs_ksm_limits limits = CS_KSM_LIMITS_DEFAULT;

/* A host of 16 GiB of which half is free, and (mib) of guests. */
static struct cs_ksm_sample quiet(int64_t at_ms, int64_t mib)
{
	struct cs_ksm_sample s = { .at_ms = at_ms,
				   .total_bytes = 16 * GIB,
				   .available_bytes = 8 * GIB,
				   .enrolled_bytes = mib * MIB };

	return s;
}

static struct cs_ksm_setting new_kernel(void)
{
	return (struct cs_ksm_setting){ .pages_to_scan = 100,
					.sleep_ms = 20,
					.smart_scan = 1,
					.advisor_max_cpu = 70,
					.advisor_min_pages_to_scan = 500,
					.advisor_max_pages_to_scan = 30000,
					.advisor_target_scan_s = 200 };
}

static struct cs_ksm_setting old_kernel(void)
{
	struct cs_ksm_setting s = cs_ksm_setting_unknown();

	s.run = s.use_zero_pages = 0;
	s.pages_to_scan = 100;
	s.sleep_ms = 20;
	return s;
}

/* ---- pressure ------------------------------------------------------------------------------ */

static void test_pressed(void **state)
{
	static const struct {
		int64_t available_before, available, some_us, ms;
		bool want;
	} rows[] = {
		{ 8 * GIB, 8 * GIB, 0, 1000, false },
		{ 8 * GIB, 8 * GIB, 49000, 1000, false },
		{ 8 * GIB, 8 * GIB, 50000, 1000, true },
		{ 8 * GIB, 8 * GIB, 50000, 100, true },
		{ 16 * GIB / 20, 16 * GIB / 20, 0, 1000, false },
		{ 16 * GIB / 20, 16 * GIB / 20 - 1, 0, 1000, true },
		{ CS_KSM_UNKNOWN, CS_KSM_UNKNOWN, 0, 1000, false },
		/* 200 MiB a second: 3 GiB over the mark last 16 s, 6 GiB are more than a third */
		{ 4 * GIB, 4 * GIB - 200 * MIB, 0, 1000, true },
		{ 6 * GIB, 6 * GIB - 200 * MIB, 0, 1000, false },
		{ 4 * GIB, 4 * GIB - 20 * MIB, 0, 1000, false },
		{ 4 * GIB, 4 * GIB + 200 * MIB, 0, 1000, false },
		/* no time has passed */
		{ 4 * GIB, 3 * GIB, 50000, 0, false },
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct cs_ksm_sample before = quiet(5000, 0), now = quiet(5000 + rows[i].ms, 0);

		before.available_bytes = rows[i].available_before;
		now.available_bytes = rows[i].available;
		before.some_us = 1000;
		now.some_us = 1000 + rows[i].some_us;
		assert_int_equal(cs_ksm_pressed(&before, &now, &limits), rows[i].want);
	}
	/* Figures that are not there, or began anew, are no pressure. */
	struct cs_ksm_sample none = cs_ksm_sample_unknown(), now = quiet(1000, 0);

	assert_false(cs_ksm_pressed(&none, &none, &limits));
	now.some_us = 1000000;
	assert_false(cs_ksm_pressed(&none, &now, &limits));
}

/* ---- a course: what is seen follows from what was decided ---------------------------------- */

struct host {
	struct cs_ksm_sample before, now;
	struct cs_ksm_setting set;
	struct cs_ksm_mind mind;
	int64_t seen;  /* MiB that were scanned once, in the course of the pass */
	int64_t twice; /* MiB that were scanned twice */
	double alike;
	double zero; /* so much is zeroes: once merged, no process has it any more */
};

/* Go on to (ms) later, with (mib) of guests. ksmd: 2 us a page, everything merges that can when all
 * was visited twice. */
static void go(struct host *h, int64_t ms, int64_t mib)
{
	const int64_t end = h->now.at_ms + ms;

	while (h->now.at_ms < end) {
		struct cs_ksm_setting want;
		int64_t step = h->mind.wake_ms ? h->mind.wake_ms : 1, pages;

		if (step > end - h->now.at_ms)
			step = end - h->now.at_ms;
		h->before = h->now;
		h->now.at_ms += step;
		h->now.enrolled_bytes = mib * MIB - h->now.zero_pages * 4096;
		if (h->set.run == 1) {
			const int64_t ring = h->now.enrolled_bytes / 4096 + 1;
			const int64_t batch_us = h->set.pages_to_scan * 2;

			pages = step * 1000 * h->set.pages_to_scan /
				(batch_us + h->set.sleep_ms * 1000);
			h->now.pages_scanned += pages;
			h->now.ksmd_us += pages * 2;
			h->now.full_scans = h->now.pages_scanned / ring;
			h->seen += pages;
			if (h->seen > 2 * ring)
				h->now.pages_sharing =
					(int64_t)((double)(h->now.enrolled_bytes / 4096) *
						  h->alike);
			if (h->seen > 2 * ring)
				h->now.zero_pages = (int64_t)((double)(mib * MIB / 4096) * h->zero);
		} else {
			h->seen = 0;
		}
		cs_ksm_decide(&h->before, &h->now, &h->set, &limits, &h->mind, &want);
		assert_in_range(want.run, 0, 1);
		assert_in_range(h->mind.wake_ms, 20, 1000);
		assert_true(want.pages_to_scan >= 1);
		h->set = want;
	}
}

static void test_nothing_to_do(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel() };

	h.set.run = 1; /* whoever left it so */
	go(&h, 600000, 0);
	assert_int_equal(h.set.run, 0);
	assert_in_range(h.now.ksmd_us, 0, 1000000);
	assert_int_equal(h.mind.wake_ms, 1000);
}

/* Guests come and are much alike: two passes, and rest. */
static void test_a_burst(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel(), .alike = 0.5 };
	const int64_t pages = 1000 * MIB / 4096;

	for (int64_t mib = 0; mib < 1000; mib += 50) {
		go(&h, 500, mib);
		assert_int_equal(h.set.run, 0); /* they settle */
	}
	go(&h, 4500, 1000);
	assert_int_equal(h.set.run, 1);
	assert_int_equal(h.mind.why, CS_KSM_NEW);
	assert_int_equal(h.set.use_zero_pages, 1);
	go(&h, 10000, 1000);
	assert_int_equal(h.set.run, 0);
	assert_int_equal(h.now.pages_sharing, pages / 2);
	/* Two passes, and not much more. */
	assert_in_range(h.now.pages_scanned, 2 * pages, 2 * pages + pages / 8);
	assert_in_range(h.now.ksmd_us, 0, 3 * pages * 2);
}

/* That zero pages are no longer the guests' is no sign that some have gone, nor that some are new
 * when they are written to again: no pass because of it. */
static void test_zero_pages(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel(), .zero = 0.2 };
	const int64_t pages = 1000 * MIB / 4096;

	go(&h, 20000, 1000);
	assert_int_equal(h.now.zero_pages, pages / 5);
	assert_int_equal(h.set.run, 0);
	assert_in_range(h.now.pages_scanned, 2 * pages, 2 * pages + pages / 8);
	h.zero = 0.1;
	h.now.zero_pages = pages / 10;
	go(&h, 20000, 1000);
	assert_in_range(h.now.pages_scanned, 2 * pages, 2 * pages + pages / 8);
	/* Half of them have gone: that is seen. */
	h.now.zero_pages = pages / 20;
	go(&h, 2000, 500);
	assert_true(h.now.pages_scanned > 2 * pages + pages / 8 || h.set.run);
}

/* While they come and come, nobody waits for ever. */
static void test_a_stream(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel(), .alike = 0.5 };
	int64_t began = 0;

	for (int64_t mib = 0; mib < 6000; mib += 50) {
		go(&h, 500, mib);
		if (h.set.run && !began)
			began = h.now.at_ms;
	}
	assert_in_range(began, 30000, 35000);
}

/* What never merges is looked at ever more rarely. */
static void test_no_yield(void **state)
{
	struct host h = { .now = quiet(1000, 500), .set = new_kernel(), .alike = 0 };
	int64_t hour[3];

	for (size_t i = 0; i < N(hour); i++) {
		const int64_t from = h.now.ksmd_us;

		go(&h, 3600000, 500);
		hour[i] = h.now.ksmd_us - from;
	}
	/* A pass over 500 MiB takes a quarter of a second. */
	assert_in_range(hour[0], 500000, 4000000);
	assert_in_range(hour[1], 0, 600000);
	assert_in_range(hour[2], 0, 600000);
}

/* Budget: of what a pass wants and more, no more than the share over a long time. */
static void test_budget(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel(), .alike = 0.1 };

	/* 100 GiB that grow all the time: 50 s of ksmd a pass */
	for (int64_t i = 0; i < 600; i++)
		go(&h, 1000, 100000 + i * 400);
	/* 5 % of 600 s, and what was saved up before */
	assert_in_range(h.now.ksmd_us, 20000000, 34000000);
}

/* The last batch of a pass that began at the head: ksmd is still asleep at the end of the scan when
 * we look, so the next pass begins at the head as well, and it is woken for it. */
static void test_end_of_scan(void **state)
{
	struct host h = { .now = quiet(1000, 0), .set = new_kernel() };
	const int64_t pages = 1000 * MIB / 4096;
	struct cs_ksm_setting last;

	go(&h, 3500, 1000);
	while (h.set.run != 1)
		go(&h, 20, 1000);
	assert_true(h.mind.pass_from_head);
	h.before = h.now;
	h.now.at_ms += 400;
	h.now.pages_scanned = pages - 1000;
	cs_ksm_decide(&h.before, &h.now, &h.set, &limits, &h.mind, &last);
	assert_int_equal(h.mind.passes, 2);
	assert_true(last.sleep_ms >= 1000);
	h.before = h.now;
	h.now.at_ms += 450;
	h.now.pages_scanned = h.now.pages_volatile = pages;
	h.now.full_scans = 1;
	cs_ksm_decide(&h.before, &h.now, &last, &limits, &h.mind, &h.set);
	assert_int_equal(h.mind.passes, 1);
	assert_true(h.mind.pass_from_head);
	assert_true(h.set.sleep_ms != last.sleep_ms);
}

static void test_pressure(void **state)
{
	struct host h = { .now = quiet(1000, 1000), .set = new_kernel(), .alike = 0.5 };

	/* everything is merged, nothing is new */
	go(&h, 60000, 1000);
	assert_int_equal(h.set.run, 0);
	h.mind.credit_us = -1000000;
	h.now.available_bytes = 100 * MIB;
	go(&h, h.mind.wake_ms, 1000);
	assert_int_equal(h.set.run, 1);
	assert_int_equal(h.mind.why, CS_KSM_PRESSURE);
	assert_int_equal(h.set.smart_scan, 0);
	/* as fast as it may, whatever was used before: 90 % of a core */
	assert_in_range(h.set.pages_to_scan * 2, 9 * 20000 * 9 / 10, 9 * 20000 * 11 / 10);
	/* It finds nothing: it does not go on for ever. */
	const int64_t from = h.now.ksmd_us;

	go(&h, 600000, 1000);
	assert_in_range(h.now.ksmd_us - from, 1000000, 30000000);
	/* and once more there is room, not at all, but for probes */
	h.now.available_bytes = 8 * GIB;
	go(&h, 25000, 1000);
	assert_int_equal(h.set.run, 0);
	assert_int_equal(h.set.smart_scan, 1);
}

/* Memory runs short while it stands still, looks for yield, owes CPU time, or has just looked: it
 * is all the same, the next decision has it scan as fast as it may. That is half a second away at
 * most (ksm/tune.c), or at once where the kernel wakes us. */
static void test_spike(void **state)
{
	static const struct {
		int64_t available_mib, lost_mib; /* in the half second before */
		int64_t stalled_ms;              /* in it */
		enum cs_ksm_why why;             /* what it was at */
		int64_t credit_us, probed_ms;    /* before */
		bool want;
	} rows[] = {
		/* nothing is short */
		{ 8192, 0, 0, CS_KSM_NOTHING, 0, 0, false },
		{ 8192, 4096, 0, CS_KSM_NOTHING, 0, 0, false },
		{ 700, 0, 0, CS_KSM_NOTHING, 0, 0, true },
		{ 700, 0, 0, CS_KSM_NOTHING, -3000000, 0, true },
		{ 700, 0, 0, CS_KSM_NOTHING, 0, 1, true },
		{ 700, 0, 0, CS_KSM_PROBE, 0, 0, true },
		{ 700, 0, 0, CS_KSM_SETTLING, 0, 0, true },
		/* it runs out: 200 MiB a second, 4 GiB left */
		{ 4096, 100, 0, CS_KSM_NOTHING, 0, 0, true },
		{ 4096, 5, 0, CS_KSM_NOTHING, 0, 0, false },
		/* tasks wait for it, whatever is said to be there */
		{ 8192, 0, 100, CS_KSM_NOTHING, 0, 0, true },
		{ 8192, 0, 100, CS_KSM_PROBE, -3000000, 0, true },
		{ 8192, 0, 10, CS_KSM_NOTHING, 0, 0, false },
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct host h = { .now = quiet(1000, 1000), .set = new_kernel(), .alike = 0.5 };
		struct cs_ksm_setting want;

		go(&h, 30000, 1000);
		h.mind.probe_ms = rows[i].why == CS_KSM_PROBE ? h.now.at_ms : INT64_MAX;
		if (rows[i].probed_ms) {
			h.mind.probe_ms = h.now.at_ms;
			go(&h, 5000, 1000);
			h.mind.probe_ms = INT64_MAX;
		}
		if (rows[i].why == CS_KSM_PROBE)
			go(&h, 1, 1000);
		if (rows[i].why == CS_KSM_SETTLING)
			go(&h, 100, 1100);
		assert_int_equal(h.mind.why, rows[i].why);
		h.mind.credit_us = rows[i].credit_us;
		h.before = h.now;
		h.before.available_bytes = (rows[i].available_mib + rows[i].lost_mib) * MIB;
		h.now.available_bytes = rows[i].available_mib * MIB;
		h.now.at_ms += 500;
		h.now.some_us += rows[i].stalled_ms * 1000;
		cs_ksm_decide(&h.before, &h.now, &h.set, &limits, &h.mind, &want);
		assert_int_equal(want.run, rows[i].want);
		if (rows[i].want)
			assert_in_range(want.pages_to_scan * h.mind.cost_ns / 1000,
					9 * 20000 * 8 / 10, 9 * 20000 * 11 / 10);
	}
}

/* Merged pages that are written to again are new memory, too. */
static void test_churn(void **state)
{
	struct host h = { .now = quiet(1000, 1000), .set = new_kernel(), .alike = 0.5 };

	go(&h, 12000, 1000);
	assert_int_equal(h.set.run, 0);
	h.mind.probe_ms = INT64_MAX;
	go(&h, 10000, 1000);
	assert_int_equal(h.set.run, 0);
	h.now.cow_ksm += 20000;
	go(&h, 4500, 1000);
	assert_int_equal(h.set.run, 1);
	assert_int_equal(h.mind.why, CS_KSM_NEW);
}

static void test_guests_go(void **state)
{
	struct host h = { .now = quiet(1000, 2000), .set = new_kernel(), .alike = 0.5 };

	go(&h, 12000, 2000);
	h.mind.probe_ms = INT64_MAX;
	/* Many at once: the kernel has to forget them. */
	go(&h, 100, 100);
	assert_int_equal(h.mind.covered_bytes, 100 * MIB);
	assert_int_equal(h.mind.why, CS_KSM_SWEEP);
	assert_int_equal(h.set.run, 1);
	go(&h, 5000, 100);
	assert_int_equal(h.set.run, 0);
	h.mind.probe_ms = INT64_MAX;
	go(&h, 7000, 200); /* what comes then is new */
	assert_true(h.mind.covered_bytes == 200 * MIB);
	h.mind.probe_ms = INT64_MAX;
	/* One by one: when enough have gone */
	for (int64_t mib = 199; mib > 193; mib--) {
		go(&h, 1000, mib);
		assert_int_equal(h.set.run, 0);
	}
	go(&h, 1, 185);
	assert_int_equal(h.mind.why, CS_KSM_SWEEP);
	/* The last one, in the middle of a pass */
	go(&h, 1, 0);
	assert_int_equal(h.set.run, 1);
	h.now.pages_shared = h.now.pages_sharing = 0;
	go(&h, 100, 0);
	assert_int_equal(h.set.run, 0);
	go(&h, 100000, 0);
	assert_int_equal(h.set.run, 0);
}

/* Linux 6.1: no counters of pages, no zero pages; only full_scans tell. */
static void test_old_kernel(void **state)
{
	struct cs_ksm_sample before = cs_ksm_sample_unknown(), now = before;
	struct cs_ksm_setting set = old_kernel(), want;
	struct cs_ksm_mind mind = { 0 };
	int ran = 0;

	now.at_ms = 0;
	now.full_scans = now.pages_sharing = now.pages_shared = 0;
	now.pages_unshared = now.pages_volatile = 0;
	now.anon_bytes = 200 * MIB;
	for (int i = 0; i < 40; i++) {
		before = now;
		now.at_ms += 1000;
		now.full_scans += set.run;
		now.pages_sharing += set.run * 1000;
		cs_ksm_decide(&before, &now, &set, &limits, &mind, &want);
		assert_true(want.smart_scan == CS_KSM_UNKNOWN);
		assert_true(want.advisor_mode == CS_KSM_UNKNOWN);
		assert_int_equal(want.use_zero_pages, 0);
		set = want;
		ran += want.run == 1;
	}
	assert_in_range(ran, 4, 10); /* two passes of two full scans each, and a probe */
}

/* Whatever is seen: no overflow (the sanitizer looks), and settings that a kernel takes. */
static void test_nonsense(void **state)
{
	static const int64_t values[] = { CS_KSM_UNKNOWN, INT64_MIN + 1, -1,           0, 1,
					  4096,           INT64_MAX,     INT64_MAX / 2 };
	struct cs_ksm_setting set = new_kernel(), want;
	struct cs_ksm_mind mind = { 0 };
	struct cs_ksm_sample before, now = cs_ksm_sample_unknown();
	uint32_t seed = 1;
	size_t n;
	const struct cs_ksm_field *fields = cs_ksm_sample_fields(&n);

	for (int i = 0; i < 200000; i++) {
		before = now;
		for (size_t k = 0; k < n; k++) {
			seed = seed * 1664525 + 1013904223;
			cs_ksm_field_set(&now, &fields[k], values[(seed >> 16) % N(values)]);
		}
		now.at_ms = i * 1000;
		for (const struct cs_ksm_policy *p = cs_ksm_policies; p->name; p++) {
			struct cs_ksm_mind other = { 0 };

			p->decide(&before, &now, &set, &limits,
				  p->decide == cs_ksm_decide ? &mind : &other, &want);
			assert_in_range(want.run, 0, 1);
			assert_in_range(want.pages_to_scan, 0, 1000000);
			assert_in_range(want.sleep_ms, 0, 1000000000);
		}
	}
}

/* ---- the others ---------------------------------------------------------------------------- */

static void test_ksmtuned(void **state)
{
	static const struct {
		int64_t enrolled, available;
		int64_t run, pages;
	} rows[] = {
		{ 1 * GIB, 8 * GIB, 0, 64 },   /* they fit */
		{ 14 * GIB, 1 * GIB, 1, 364 }, /* do not, and memory is short: faster */
		{ 14 * GIB, 1 * GIB, 1, 664 },  { 14 * GIB, 1 * GIB, 1, 964 },
		{ 14 * GIB, 1 * GIB, 1, 1250 }, { 14 * GIB, 1 * GIB, 1, 1250 },
		{ 14 * GIB, 8 * GIB, 1, 1200 }, /* do not, but are not there yet: slower */
		{ 1 * GIB, 8 * GIB, 0, 1150 },
	};
	const struct cs_ksm_policy *policy = cs_ksm_policy_find("ksmtuned");
	struct cs_ksm_setting set = new_kernel(), want;
	struct cs_ksm_mind mind = { 0 };

	for (size_t i = 0; i < N(rows); i++) {
		struct cs_ksm_sample now = quiet((int64_t)i * 60000, 0);

		now.enrolled_bytes = rows[i].enrolled;
		now.available_bytes = rows[i].available;
		policy->decide(&now, &now, &set, &limits, &mind, &want);
		assert_int_equal(want.run, rows[i].run);
		assert_int_equal(want.pages_to_scan, rows[i].pages);
		assert_int_equal(want.sleep_ms, 10);
		/* within the minute nothing changes */
		now.at_ms += 1000;
		policy->decide(&now, &now, &set, &limits, &mind, &want);
		assert_int_equal(want.pages_to_scan, rows[i].pages);
	}
}

static void test_others(void **state)
{
	struct cs_ksm_setting set = new_kernel(), want;
	struct cs_ksm_sample now = quiet(0, 100);
	struct cs_ksm_mind mind = { 0 };

	assert_null(cs_ksm_policy_find("nosuch"));
	cs_ksm_policy_find("kernel")->decide(&now, &now, &set, &limits, &mind, &want);
	assert_int_equal(want.run, 1);
	assert_int_equal(want.pages_to_scan, 100);
	assert_int_equal(want.advisor_mode, 0);
	cs_ksm_policy_find("advisor")->decide(&now, &now, &set, &limits, &mind, &want);
	assert_int_equal(want.advisor_mode, 1);
	cs_ksm_policy_find("off")->decide(&now, &now, &set, &limits, &mind, &want);
	assert_int_equal(want.run, 0);
	/* a kernel without an advisor is not told to have one */
	set = old_kernel();
	cs_ksm_policy_find("advisor")->decide(&now, &now, &set, &limits, &mind, &want);
	assert_true(want.advisor_mode == CS_KSM_UNKNOWN);
	assert_int_equal(want.run, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pressed),    cmocka_unit_test(test_nothing_to_do),
		cmocka_unit_test(test_a_burst),    cmocka_unit_test(test_zero_pages),
		cmocka_unit_test(test_a_stream),   cmocka_unit_test(test_no_yield),
		cmocka_unit_test(test_budget),     cmocka_unit_test(test_end_of_scan),
		cmocka_unit_test(test_pressure),   cmocka_unit_test(test_spike),
		cmocka_unit_test(test_churn),      cmocka_unit_test(test_guests_go),
		cmocka_unit_test(test_old_kernel), cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_ksmtuned),   cmocka_unit_test(test_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
