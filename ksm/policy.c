/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/policy.h"

#include <stddef.h>
#include <string.h>

#define PAGE 4096

#define COST_NS           2000 /* of a page, before anything was learned; measured: 1.9 us */
#define COST_MIN_NS       100
#define COST_MAX_NS       100000
#define CREDIT_MS         60000              /* of budget that can be saved up, or owed */
#define GROWN_BYTES       (INT64_C(1) << 20) /* and a sixteenth of what there is: worth a look */
#define GROWN_PART        16
#define SETTLE_MS         3000
#define SETTLE_PART       4 /* of growth that is enough: less of it in SETTLE_MS is none */
#define SETTLE_MAX_MS     30000
#define CHURN_FIRST_MS    10000 /* between two looks because merged pages were written to */
#define CHURN_MAX_MS      600000
#define YIELD_PART        200   /* a page saved of so many scanned is worth the CPU time */
#define PROBE_FIRST_MS    15000 /* when much had changed between two looks at it, else: */
#define PROBE_STILL_MS    60000
#define VOLATILE_PART     8
#define PROBE_MIN_MS      10000
#define PROBE_MAX_MS      3600000
#define PROBE_PART        8
#define RESCUE_FIRST_MS   2000
#define RESCUE_MAX_MS     60000
#define SWEEP_MAX_MS      60000
#define SLEEP_PRESSED_MS  20
#define SLEEP_MS          100
#define SLEEP_END_MS      1000 /* longer than two looks are apart: see locate() */
#define WAKE_MAX_MS       1000
#define WAKE_MIN_MS       20
#define STALL_PERMILLE    50    /* of the time some task waited for memory */
#define LOW_PART          20    /* of all memory */
#define RUNS_OUT_MS       20000 /* at the rate at which it goes now */
#define RUNS_OUT_PART     3     /* and a third of all is left at most */
#define PAGES_TO_SCAN_MAX 200000
#define BATCH_MIN         256 /* pages; a pass is not exact to fewer */

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* How far a counter has come: 0 when it is not known, or began anew. */
static int64_t moved(int64_t from, int64_t to)
{
	return from < 0 || to < from ? 0 : to - from;
}

/* 0 when it is not known; never so much that sums of a few overflow. */
static int64_t known(int64_t value)
{
	return value < 0 ? 0 : least(value, INT64_MAX / 8);
}

/* ---- what is seen -------------------------------------------------------------------------- */

/* Private memory that may be merged; the host's, when the caller does not know of guests. */
static int64_t enrolled(const struct cs_ksm_sample *now)
{
	return known(now->enrolled_bytes == CS_KSM_UNKNOWN ? now->anon_bytes : now->enrolled_bytes);
}

/* The same with what was merged into the zero page, which no process has any more (mm/ksm.c
 * try_to_merge_with_zero_page()): that merging made it less is no sign that guests have gone. */
static int64_t held(const struct cs_ksm_sample *now)
{
	return enrolled(now) + least(known(now->zero_pages), INT64_MAX / 8 / PAGE) * PAGE;
}

/* Pages that KSM knows of; those of guests that have gone, too, until it comes past them. */
static int64_t tracked(const struct cs_ksm_sample *now)
{
	return known(now->pages_shared) + known(now->pages_sharing) + known(now->pages_unshared) +
	       known(now->pages_volatile);
}

/* Pages that a pass visits. */
static int64_t ring(const struct cs_ksm_sample *now)
{
	return most(tracked(now), enrolled(now) / PAGE);
}

static int64_t grown_enough(const struct cs_ksm_sample *now)
{
	return most(GROWN_BYTES, enrolled(now) / GROWN_PART);
}

bool cs_ksm_pressed(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		    const struct cs_ksm_limits *limits)
{
	const int64_t ms = moved(before->at_ms, now->at_ms);
	const int64_t total = known(now->total_bytes), available = known(now->available_bytes);
	const int64_t low = limits->low_bytes ? limits->low_bytes : total / LOW_PART;
	int64_t lost;

	if (ms && moved(before->some_us, now->some_us) / ms >= STALL_PERMILLE)
		return true;
	if (now->available_bytes == CS_KSM_UNKNOWN || !total)
		return false;
	if (available < low)
		return true;
	lost = moved(available, before->available_bytes);
	return ms && lost > total / 1000 && available < total / RUNS_OUT_PART &&
	       (available - low) / (lost / ms + 1) < RUNS_OUT_MS;
}

/* ---- what it costs ------------------------------------------------------------------------- */

static void learn(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		  const struct cs_ksm_limits *limits, struct cs_ksm_mind *mind)
{
	const int64_t pages = moved(before->pages_scanned, now->pages_scanned);
	const int64_t ms = moved(before->at_ms, now->at_ms);
	const int64_t most_us = CREDIT_MS * limits->budget_permille;
	int64_t us = moved(before->ksmd_us, now->ksmd_us);

	if (!mind->cost_ns) {
		mind->cost_ns = COST_NS;
		mind->credit_us = most_us;
	}
	if (now->ksmd_us == CS_KSM_UNKNOWN)
		us = least(pages, INT64_MAX / COST_MAX_NS) * mind->cost_ns / 1000;
	else if (pages > 1000 && us > 0)
		mind->cost_ns =
			(3 * mind->cost_ns + least(us, INT64_MAX / 1000) * 1000 / pages) / 4;
	mind->cost_ns = least(most(mind->cost_ns, COST_MIN_NS), COST_MAX_NS);
	mind->credit_us += least(ms, CREDIT_MS) * limits->budget_permille - least(us, most_us);
	mind->credit_us = least(most(mind->credit_us, -most_us), most_us);
}

/* ---- passes -------------------------------------------------------------------------------- */

/* Does the scan stand at its beginning? ksmd ends its batch there and sleeps (mm/ksm.c
 * ksm_do_scan()): when a scan ended between two looks that are less than a sleep apart, nothing
 * came behind it. And while KSM knows of nothing, it has not gone anywhere yet. */
static void locate(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		   const struct cs_ksm_setting *current, struct cs_ksm_mind *mind)
{
	const bool moves = moved(before->pages_scanned, now->pages_scanned) ||
			   moved(before->pages_skipped, now->pages_skipped);
	const bool ended = moved(before->full_scans, now->full_scans) == 1;

	if (now->pages_scanned == CS_KSM_UNKNOWN)
		mind->at_head = false;
	else if (!mind->begun)
		mind->at_head = !tracked(now);
	else if (ended && moved(before->at_ms, now->at_ms) < known(current->sleep_ms))
		mind->at_head = true;
	else if (ended || moves || moved(before->full_scans, now->full_scans))
		mind->at_head = false;
}

static void begin_pass(const struct cs_ksm_sample *now, struct cs_ksm_mind *mind)
{
	mind->pass_scanned = known(now->pages_scanned) + known(now->pages_skipped);
	mind->pass_scans = known(now->full_scans);
	mind->pass_ms = now->at_ms;
	mind->pass_saved = cs_ksm_saved_pages(now);
	mind->pass_from_head = mind->at_head;
}

static void start(const struct cs_ksm_sample *now, enum cs_ksm_why why, struct cs_ksm_mind *mind)
{
	mind->why = why;
	mind->passes = why == CS_KSM_PROBE || why == CS_KSM_SWEEP ? 1 : 2;
	mind->gone_bytes = 0;
	/* A sweep takes first checksums only: what is new stays so. */
	if (why != CS_KSM_SWEEP) {
		mind->covered_bytes = held(now);
		mind->covered_cow = known(now->cow_ksm);
	}
	mind->settle_ms = 0;
	begin_pass(now, mind);
}

/* Everything was visited: when the scan comes to its end, if it began at the beginning; else by
 * count, or when it came to its end twice. */
static bool pass_is_over(const struct cs_ksm_sample *now, const struct cs_ksm_mind *mind)
{
	const int64_t visited =
		known(now->pages_scanned) + known(now->pages_skipped) - mind->pass_scanned;

	if (!mind->pass_from_head && now->pages_scanned != CS_KSM_UNKNOWN &&
	    visited > ring(now) + ring(now) / 50)
		return true;
	if (mind->why == CS_KSM_SWEEP &&
	    (!tracked(now) || now->at_ms - mind->pass_ms > SWEEP_MAX_MS))
		return true;
	return known(now->full_scans) >= mind->pass_scans + (mind->pass_from_head ? 1 : 2);
}

/* Did the pass earn what it cost? */
static bool earned(const struct cs_ksm_sample *now, const struct cs_ksm_mind *mind)
{
	int64_t visited =
		known(now->pages_scanned) + known(now->pages_skipped) - mind->pass_scanned;

	if (now->pages_scanned == CS_KSM_UNKNOWN)
		visited = ring(now);
	return cs_ksm_saved_pages(now) - mind->pass_saved > visited / YIELD_PART;
}

static void stand_still(const struct cs_ksm_sample *now, bool good, struct cs_ksm_mind *mind)
{
	if (mind->why == CS_KSM_PROBE)
		mind->backoff_ms = good ? mind->backoff_ms / 2 : 2 * mind->backoff_ms;
	else if (mind->why == CS_KSM_NEW || !mind->backoff_ms)
		mind->backoff_ms = known(now->pages_volatile) > ring(now) / VOLATILE_PART
					   ? PROBE_FIRST_MS
					   : PROBE_STILL_MS;
	mind->backoff_ms = least(most(mind->backoff_ms, PROBE_MIN_MS), PROBE_MAX_MS);
	mind->probe_ms = now->at_ms + mind->backoff_ms;
	/* Only what was done because memory is short tells whether to do it again for that. */
	if (mind->why == CS_KSM_PRESSURE) {
		mind->rescue_backoff_ms = good || !mind->rescue_backoff_ms
						  ? RESCUE_FIRST_MS
						  : 2 * mind->rescue_backoff_ms;
		mind->rescue_backoff_ms = least(mind->rescue_backoff_ms, RESCUE_MAX_MS);
		mind->rescue_ms = now->at_ms + mind->rescue_backoff_ms;
	}
	mind->passes = 0;
	mind->why = CS_KSM_NOTHING;
}

/* An eighth tells whether the rest is worth it; the next probe goes on where this one ends. */
static bool is_in_vain(const struct cs_ksm_sample *now, const struct cs_ksm_mind *mind)
{
	const int64_t visited =
		known(now->pages_scanned) + known(now->pages_skipped) - mind->pass_scanned;

	return mind->why == CS_KSM_PROBE && now->pages_scanned != CS_KSM_UNKNOWN &&
	       visited > ring(now) / PROBE_PART && !earned(now, mind);
}

static void end_pass(const struct cs_ksm_sample *now, struct cs_ksm_mind *mind)
{
	const bool good = earned(now, mind);

	mind->passes--;
	if (mind->passes)
		begin_pass(now, mind);
	else
		stand_still(now, good, mind);
}

/* ---- when to begin ------------------------------------------------------------------------- */

/* Of what is merged so much was written to again, since the last look began, that another may pay.
 * The rarer the more often that happens: merging what is soon written to is all cost. */
static bool is_churned(const struct cs_ksm_sample *now, struct cs_ksm_mind *mind)
{
	const int64_t pages = moved(mind->covered_cow, known(now->cow_ksm));

	return least(pages, INT64_MAX / PAGE) * PAGE >= grown_enough(now) &&
	       now->at_ms >= mind->churn_ms;
}

static void put_off_churn(const struct cs_ksm_sample *now, struct cs_ksm_mind *mind)
{
	const bool often = now->at_ms - mind->churn_ms < 2 * mind->churn_backoff_ms;

	mind->churn_backoff_ms = often ? 2 * mind->churn_backoff_ms : CHURN_FIRST_MS;
	mind->churn_backoff_ms = least(most(mind->churn_backoff_ms, CHURN_FIRST_MS), CHURN_MAX_MS);
	mind->churn_ms = now->at_ms + mind->churn_backoff_ms;
}

static bool is_grown(const struct cs_ksm_sample *now, const struct cs_ksm_mind *mind)
{
	return held(now) - mind->covered_bytes >= grown_enough(now);
}

/* Guests that are being made change what they have: a look at them is for nothing until they stand.
 * True when there is something new and it has settled, or would not. */
static bool is_new(const struct cs_ksm_sample *now, struct cs_ksm_mind *mind)
{
	const int64_t have = held(now), enough = grown_enough(now);
	const bool grown = is_grown(now, mind);

	if (!grown && !is_churned(now, mind)) {
		mind->settle_ms = 0;
		return false;
	}
	if (!mind->settle_ms) {
		mind->settle_ms = mind->still_ms = now->at_ms;
		mind->still_bytes = have;
	}
	/* Against where it was when it last moved: the kernel's counters of a process come in
	 * jumps, so from one look to the next even what grows all the time may stand still. */
	if (have - mind->still_bytes > enough / SETTLE_PART ||
	    mind->still_bytes - have > enough / SETTLE_PART) {
		mind->still_bytes = have;
		mind->still_ms = now->at_ms;
	}
	if (now->at_ms - mind->still_ms < SETTLE_MS &&
	    now->at_ms - mind->settle_ms < SETTLE_MAX_MS) {
		mind->why = CS_KSM_SETTLING;
		return false;
	}
	if (!grown)
		put_off_churn(now, mind);
	return true;
}

static void consider(const struct cs_ksm_sample *now, bool pressed, struct cs_ksm_mind *mind)
{
	const int64_t have = held(now);
	int64_t unseen;

	mind->why = CS_KSM_NOTHING;
	if (!mind->begun && tracked(now)) /* whatever was left before us */
		mind->gone_bytes = INT64_MAX / 2;
	if (have < mind->covered_bytes) { /* guests have gone */
		mind->gone_bytes = least(mind->gone_bytes, INT64_MAX / 2) +
				   least(mind->covered_bytes - have, INT64_MAX / 2);
		mind->covered_bytes = have;
	}
	unseen = have - mind->covered_bytes;
	/* What KSM remembers of them it drops as it comes past, which it does not while it stands
	 * still: until then its figures are too high. A look at what is new does that, too. */
	if (mind->gone_bytes >= (enrolled(now) ? grown_enough(now) : 1) && !is_grown(now, mind)) {
		start(now, CS_KSM_SWEEP, mind);
		return;
	}
	if (!enrolled(now))
		return;
	if (pressed && (now->at_ms >= mind->rescue_ms || unseen >= GROWN_BYTES))
		start(now, CS_KSM_PRESSURE, mind);
	else if (is_new(now, mind))
		start(now, CS_KSM_NEW, mind);
	else if (mind->why == CS_KSM_NOTHING && mind->backoff_ms && now->at_ms >= mind->probe_ms)
		start(now, CS_KSM_PROBE, mind);
}

/* ---- how fast ------------------------------------------------------------------------------ */

static void set_rate(const struct cs_ksm_sample *now, const struct cs_ksm_limits *limits,
		     bool pressed, struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	const int64_t visited =
		known(now->pages_scanned) + known(now->pages_skipped) - mind->pass_scanned;
	int64_t permille = limits->budget_permille, batch_ns, left, rate;

	if (pressed)
		permille = limits->pressure_permille;
	else if (mind->credit_us > 0)
		permille = most(limits->burst_permille, limits->budget_permille);
	permille = least(most(permille, 1), 950);
	ret->sleep_ms = pressed ? SLEEP_PRESSED_MS : SLEEP_MS;
	batch_ns = ret->sleep_ms * 1000000 * permille / (1000 - permille);
	rate = most(permille * 1000000 / mind->cost_ns, 1); /* pages a second */
	left = mind->why == CS_KSM_PROBE && visited < ring(now) / PROBE_PART
		       ? ring(now) / PROBE_PART
		       : ring(now);
	left = most(left - visited, 0);
	/* Every page more than the pass is for nothing: its last batch ends with it (at the end of
	 * the scan by itself), and we are there then. */
	ret->pages_to_scan = least(most(batch_ns / mind->cost_ns, 1), PAGES_TO_SCAN_MAX);
	if (!mind->pass_from_head)
		ret->pages_to_scan = least(ret->pages_to_scan, most(left + left / 50, BATCH_MIN));
	/* It sleeps at the end of the scan until we have looked, and the next pass begins there; at
	 * once, since another figure than before wakes it (mm/ksm.c sleep_millisecs_store()). When
	 * there is more than was thought, it goes on as before. */
	else if (left && left <= ret->pages_to_scan && !pressed)
		ret->sleep_ms = most(ret->sleep_ms, SLEEP_END_MS) + mind->passes % 2;
	/* A little before, since what is left is a guess. */
	mind->wake_ms = least(left, INT64_MAX / 1000) * 800 / rate;
}

void cs_ksm_decide(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		   const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
		   struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	const bool pressed = cs_ksm_pressed(before, now, limits);

	*ret = *current;
	learn(before, now, limits, mind);
	locate(before, now, current, mind);
	if (mind->passes && !enrolled(now) && mind->why != CS_KSM_SWEEP)
		stand_still(now, false, mind);
	else if (mind->passes && pass_is_over(now, mind))
		end_pass(now, mind);
	else if (mind->passes && pressed && mind->why == CS_KSM_PROBE)
		start(now, CS_KSM_PRESSURE, mind);
	else if (mind->passes && is_in_vain(now, mind))
		stand_still(now, false, mind);
	if (!mind->passes)
		consider(now, pressed, mind);

	mind->wake_ms = WAKE_MAX_MS;
	ret->run = mind->passes ? 1 : 0;
	if (current->advisor_mode != CS_KSM_UNKNOWN)
		ret->advisor_mode = 0;
	/* Where zero pages are not counted, what they save could not be told from nothing. */
	if (current->use_zero_pages != CS_KSM_UNKNOWN)
		ret->use_zero_pages = now->zero_pages != CS_KSM_UNKNOWN;
	if (current->smart_scan != CS_KSM_UNKNOWN)
		ret->smart_scan = !pressed;
	if (mind->passes)
		set_rate(now, limits, pressed, mind, ret);
	mind->wake_ms = least(most(mind->wake_ms, WAKE_MIN_MS), WAKE_MAX_MS);
	mind->begun = true;
}

bool cs_ksm_began(const struct cs_ksm_mind *before, const struct cs_ksm_mind *now)
{
	return now->passes && now->why != CS_KSM_SWEEP &&
	       (!before->passes || before->why == CS_KSM_SWEEP);
}

void cs_ksm_recount(const struct cs_ksm_sample *now, bool call_off, struct cs_ksm_mind *mind)
{
	mind->covered_bytes = held(now);
	if (call_off)
		stand_still(now, false, mind);
	/* How fast it goes is to be decided anew, by how much it is. */
	mind->wake_ms = call_off ? WAKE_MAX_MS : WAKE_MIN_MS;
}
