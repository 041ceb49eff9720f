/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whose turn it is to be asked, and for whom merging pays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ksm/ksm.h"
#include "ksm/rounds.h"
#include "ksm/trial.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* ---- does it pay for a guest? --------------------------------------------------------------- */

static void test_trial(void **state)
{
	/* What is seen after it was let in at 10 full scans: one look a row. */
	static const struct {
		int64_t scans, profit;
		size_t peers;
		bool due, lost; /* due: it may be judged; lost: behind that */
	} courses[][6] = {
		/* alone, it loses; the second guest gives it another chance */
		{ { 10, -1, 1, false, false },
		  { 11, -1, 1, false, false },
		  { 12, -1, 1, true, false },
		  { 12, -1, 1, false, false },
		  { 13, -1, 1, true, true },
		  { 13, -1, 2, false, false } },
		/* a profit in between: from the beginning */
		{ { 12, -1, 8, true, false },
		  { 13, 0, 8, true, false },
		  { 14, -1, 8, false, false },
		  { 15, -1, 8, true, false },
		  { 16, 5, 8, true, false },
		  { 18, 5, 8, true, false } },
		/* out it stays, whatever comes and goes, until there are twice as many */
		{ { 12, -5, 8, true, false },
		  { 14, -5, 8, true, true },
		  { 15, -5, 15, true, true },
		  { 15, -5, 3, true, true },
		  { 16, -5, 16, true, false },
		  { 99, 5, 16, true, false } },
		/* a kernel that does not tell, and one that was booted anew meanwhile */
		{ { CS_KSM_UNKNOWN, -1, 8, false, false },
		  { 0, -1, 8, false, false },
		  { 9, -1, 8, false, false },
		  { 12, 1, 8, true, false },
		  { 13, 1, 8, false, false },
		  { INT64_MAX, 1, 8, true, false } },
	};

	for (size_t i = 0; i < N(courses); i++) {
		struct cs_ksm_trial trial;

		cs_ksm_trial_begin(&trial, 10);
		for (size_t k = 0; k < N(courses[i]); k++) {
			const bool due = cs_ksm_trial_is_due(&trial, courses[i][k].scans);

			cs_ksm_trial_review(&trial, courses[i][k].peers);
			if (!trial.lost) {
				assert_int_equal(due, courses[i][k].due);
				if (due)
					cs_ksm_trial_judge(&trial, courses[i][k].scans,
							   courses[i][k].profit,
							   courses[i][k].peers);
			}
			assert_int_equal(trial.lost, courses[i][k].lost);
		}
	}
	struct cs_ksm_trial unknown;

	cs_ksm_trial_begin(&unknown, CS_KSM_UNKNOWN);
	assert_false(cs_ksm_trial_is_due(&unknown, 100));
}

/* ---- whose turn it is ---------------------------------------------------------------------- */

#define CROWD 400

struct crowd {
	size_t young; /* the first, */
	size_t grown; /* and the last: those between are not asked */
	unsigned asked[CROWD];
};

static enum cs_ksm_age age_in_crowd(void *arg, size_t i)
{
	const struct crowd *crowd = arg;

	if (i < crowd->young)
		return CS_KSM_YOUNG;
	return i >= CROWD - crowd->grown ? CS_KSM_GROWN : CS_KSM_NOBODY;
}

static void ask_in_crowd(void *arg, size_t i)
{
	((struct crowd *)arg)->asked[i]++;
}

/* Everyone is asked soon, nobody twice in a look, and no look is longer than it may be. With more
 * young guests than a look has time for, the last of them were not asked as long as the others
 * were young: their memory then came at once, and looked like new. */
static void test_rounds(void **state)
{
	const struct {
		size_t young, grown, most, looks; /* after which everyone was asked */
	} rows[] = {
		{ 0, 0, 128, 1 },     { 1, 0, 128, 1 },   { 3, 2, 128, 1 },    { 150, 0, 128, 2 },
		{ 300, 0, 128, 3 },   { 0, 300, 128, 3 }, { 300, 20, 128, 3 }, { 100, 40, 128, 2 },
		{ 300, 100, 128, 7 }, { 2, 2, 2, 2 },     { 0, 2, 1, 2 },      { 0, 0, 0, 1 },
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct crowd crowd = { .young = rows[i].young, .grown = rows[i].grown };
		const struct cs_ksm_crowd asking = { CROWD, age_in_crowd, ask_in_crowd, &crowd };
		struct cs_ksm_rounds rounds = { 0 };

		for (size_t look = 1; look <= rows[i].looks; look++) {
			struct crowd before = crowd;
			size_t asked = cs_ksm_rounds_look(&rounds, &asking, rows[i].most);

			assert_in_range(asked, 0, rows[i].most);
			for (size_t k = 0; k < CROWD; k++) {
				assert_in_range(crowd.asked[k] - before.asked[k], 0, 1);
				asked -= crowd.asked[k] - before.asked[k];
			}
			assert_int_equal(asked, 0);
		}
		for (size_t k = 0; k < CROWD; k++)
			assert_int_equal(crowd.asked[k] > 0,
					 age_in_crowd(&crowd, k) != CS_KSM_NOBODY);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trial),
		cmocka_unit_test(test_rounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
