/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What others do, as policies: to hold ours against. */
#include <stddef.h>
#include <string.h>

#include "ksm/policy.h"

#define TUNED_EVERY_MS     60000 /* KSM_MONITOR_INTERVAL */
#define TUNED_BOOST        300
#define TUNED_DECAY        50
#define TUNED_MIN          64
#define TUNED_MAX          1250
#define TUNED_PERCENT      20
#define TUNED_LEAST        (INT64_C(2048) << 20)
#define TUNED_SLEEP_MS     10 /* of a host of 16 GiB; longer of a smaller one */
#define TUNED_SLEEP_MAX_MS 1000
#define GIB                (INT64_C(1) << 30)

static void fixed(const struct cs_ksm_setting *current, struct cs_ksm_mind *mind,
		  struct cs_ksm_setting *ret)
{
	*ret = *current;
	ret->run = 1;
	if (current->advisor_mode != CS_KSM_UNKNOWN)
		ret->advisor_mode = 0;
	if (current->smart_scan != CS_KSM_UNKNOWN)
		ret->smart_scan = 1;
	if (current->use_zero_pages != CS_KSM_UNKNOWN)
		ret->use_zero_pages = 0;
	mind->why = CS_KSM_FIXED;
	mind->wake_ms = 1000;
	mind->begun = true;
}

static void decide_off(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
		       const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
		       struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	fixed(current, mind, ret);
	ret->run = 0;
}

/* What a kernel does that is only told to run. */
static void decide_kernel(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
			  const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
			  struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	fixed(current, mind, ret);
	ret->pages_to_scan = 100;
	ret->sleep_ms = 20;
}

/* The kernel's advisor with its own defaults (Linux 6.8); before, as without. */
static void decide_advisor(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
			   const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
			   struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	decide_kernel(before, now, current, limits, mind, ret);
	if (current->advisor_mode == CS_KSM_UNKNOWN)
		return;
	ret->advisor_mode = 1;
	ret->pages_to_scan = current->pages_to_scan; /* the advisor's to set */
	ret->advisor_max_cpu = 70;
	ret->advisor_min_pages_to_scan = 500;
	ret->advisor_max_pages_to_scan = 30000;
	ret->advisor_target_scan_s = 200;
}

static void decide_unlimited(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
			     const struct cs_ksm_setting *current,
			     const struct cs_ksm_limits *limits, struct cs_ksm_mind *mind,
			     struct cs_ksm_setting *ret)
{
	fixed(current, mind, ret);
	ret->pages_to_scan = 20000;
	ret->sleep_ms = 1;
	if (current->smart_scan != CS_KSM_UNKNOWN)
		ret->smart_scan = 0;
	if (current->use_zero_pages != CS_KSM_UNKNOWN && now->zero_pages != CS_KSM_UNKNOWN)
		ret->use_zero_pages = 1;
}

/* The rule of ksmtuned, as its published defaults have it: each minute, when what guests may use
 * and a fifth of memory do not fit together, scan faster while that fifth is not free, slower
 * otherwise; stand still when they fit. (forced): as if they never did. */
static void tuned(const struct cs_ksm_sample *now, const struct cs_ksm_setting *current,
		  bool forced, struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	const int64_t total = now->total_bytes > 0 ? now->total_bytes : 0;
	int64_t threshold = total / 100 * TUNED_PERCENT;
	const int64_t committed = now->enrolled_bytes > 0 ? now->enrolled_bytes : 0;

	fixed(current, mind, ret);
	if (threshold < TUNED_LEAST)
		threshold = TUNED_LEAST;
	if (!mind->npages)
		mind->npages = TUNED_MIN;
	if (now->at_ms >= mind->next_ms) {
		mind->next_ms = now->at_ms + TUNED_EVERY_MS;
		mind->npages += now->available_bytes < threshold ? TUNED_BOOST : -TUNED_DECAY;
		if (mind->npages < TUNED_MIN)
			mind->npages = TUNED_MIN;
		if (mind->npages > TUNED_MAX)
			mind->npages = TUNED_MAX;
	}
	ret->run = forced || committed > total - threshold;
	ret->pages_to_scan = mind->npages;
	ret->sleep_ms = total ? TUNED_SLEEP_MS * 16 * GIB / total : TUNED_SLEEP_MS;
	if (ret->sleep_ms < TUNED_SLEEP_MS)
		ret->sleep_ms = TUNED_SLEEP_MS;
	if (ret->sleep_ms > TUNED_SLEEP_MAX_MS)
		ret->sleep_ms = TUNED_SLEEP_MAX_MS;
}

static void decide_tuned(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
			 const struct cs_ksm_setting *current, const struct cs_ksm_limits *limits,
			 struct cs_ksm_mind *mind, struct cs_ksm_setting *ret)
{
	tuned(now, current, false, mind, ret);
}

static void decide_tuned_on(const struct cs_ksm_sample *before, const struct cs_ksm_sample *now,
			    const struct cs_ksm_setting *current,
			    const struct cs_ksm_limits *limits, struct cs_ksm_mind *mind,
			    struct cs_ksm_setting *ret)
{
	tuned(now, current, true, mind, ret);
}

const struct cs_ksm_policy cs_ksm_policies[] = {
	{ "yield", "Ours: two passes over what is new, then still; hard when memory is short",
	  cs_ksm_decide },
	{ "kernel", "100 pages every 20 ms, for ever", decide_kernel },
	{ "advisor", "The kernel's advisor, with its defaults", decide_advisor },
	{ "ksmtuned", "The rule of ksmtuned, with its defaults", decide_tuned },
	{ "ksmtuned-on", "The same, where it believes that memory is always overcommitted",
	  decide_tuned_on },
	{ "unlimited", "As fast as one core can, for ever: what could be saved", decide_unlimited },
	{ "off", "No scanning", decide_off },
	{ NULL, NULL, NULL },
};

const struct cs_ksm_policy *cs_ksm_policy_find(const char *name)
{
	for (const struct cs_ksm_policy *p = cs_ksm_policies; p->name; p++) {
		if (strcmp(p->name, name) == 0)
			return p;
	}
	return NULL;
}

const char *cs_ksm_why_name(enum cs_ksm_why why)
{
	switch (why) {
	case CS_KSM_NOTHING:
		return "nothing new";
	case CS_KSM_SETTLING:
		return "guests settle";
	case CS_KSM_NEW:
		return "new memory";
	case CS_KSM_PRESSURE:
		return "memory is short";
	case CS_KSM_PROBE:
		return "probe";
	case CS_KSM_SWEEP:
		return "guests have gone";
	case CS_KSM_FIXED:
		return "fixed";
	}
	return "?";
}
