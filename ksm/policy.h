/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How hard to scan: pure functions of what was seen. No clock, no file; what must be remembered
 * from one decision to the next is handed in and out. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ksm/ksm.h"

struct cs_ksm_limits {
	int64_t budget_permille;   /* of a core, for ksmd, over minutes */
	int64_t burst_permille;    /* for moments, out of what was not used before */
	int64_t pressure_permille; /* while memory is short, whatever was used before */
	int64_t low_bytes;         /* available memory below this is short; 0: a twentieth of all */
};
#define CS_KSM_LIMITS_DEFAULT                                                                      \
	{                                                                                          \
		.budget_permille = 50, .burst_permille = 500, .pressure_permille = 900,            \
	}

enum cs_ksm_why {
	CS_KSM_NOTHING,  /* no guest may be merged, or nothing has changed */
	CS_KSM_SETTLING, /* guests come: scanned when they have settled */
	CS_KSM_NEW,      /* memory that was never looked at twice */
	CS_KSM_PRESSURE, /* memory is short */
	CS_KSM_PROBE,    /* has anything become alike? */
	CS_KSM_SWEEP,    /* guests have gone: the kernel forgets them only as it scans */
	CS_KSM_FIXED,    /* a policy that does not look */
};
const char *cs_ksm_why_name(enum cs_ksm_why why);

/* What a policy remembers. Zeroed before the first decision; what a caller may read: (why),
 * (wake_ms).
 */
struct cs_ksm_mind {
	bool begun;
	enum cs_ksm_why why;
	int64_t wake_ms;   /* decide again after so long at the latest */
	int64_t cost_ns;   /* of a page scanned, as learned */
	int64_t credit_us; /* of CPU time that the budget has left over; negative: owed */
	int64_t covered_bytes,
		covered_cow;           /* enrolled memory and counter when the last look began */
	int64_t settle_ms;             /* since when there is growth; 0: there is none */
	int64_t still_ms, still_bytes; /* since when there is no more of it, and what there was */
	int64_t churn_ms;              /* merged pages that are written to count from then on */
	int64_t churn_backoff_ms;
	/* a pass */
	unsigned passes;              /* left; 0: standing still */
	bool at_head, pass_from_head; /* the scan stands at its beginning; it did when this began */
	int64_t pass_scanned, pass_scans, pass_saved; /* the counters when it began */
	int64_t pass_ms;                              /* when that was */
	int64_t gone_bytes;                           /* of guests that went since the last pass */
	/* standing still */
	int64_t probe_ms;   /* when to look again */
	int64_t backoff_ms; /* how long it was until this one */
	int64_t rescue_ms;  /* when to look again under pressure */
	int64_t rescue_backoff_ms;
	int64_t npages; /* ksmtuned's */
	int64_t next_ms;
};

/* Ours. Two passes over memory that is new (the first takes checksums, the second merges), then
 * stand still: what is merged stays. A probe now and then, the rarer the less it finds: an eighth
 * of a pass, and the rest of it when that was worth it. When memory is short, at once and as fast
 * as may be. (before) is the sample of the last decision; what is not known is done without. *ret:
 * what is to be set. */
void cs_ksm_decide(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		   const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
		   struct cs_ksm_mind *mind, struct cs_ksm_setting *ret);

/* Did a look begin between these two? A sweep is none. */
bool cs_ksm_began(const struct cs_ksm_mind *before, const struct cs_ksm_mind *now);

/* A look has just begun, and what may be merged turned out to be (now->enrolled_bytes), that is how
 * much is looked at. (call_off): it does not pay, and is over. */
void cs_ksm_recount(const struct cs_ksm_sample *now, bool call_off, struct cs_ksm_mind *mind);

/* Ours, and others to hold it against, each in the same form. */
struct cs_ksm_policy {
	const char *name, *summary;
	void (*decide)(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		       const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
		       struct cs_ksm_mind *mind, struct cs_ksm_setting *ret);
};
extern const struct cs_ksm_policy cs_ksm_policies[]; /* ends with a name that is NULL */

const struct cs_ksm_policy *cs_ksm_policy_find(const char *name); /* NULL: there is none */

/* Is memory short, or about to be? */
bool cs_ksm_pressed(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		    const struct cs_ksm_limits *limits);
