/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What would a policy have done? A model of ksmd goes through a recorded trace, under a policy.
 *
 * Of the trace it takes how much private memory the guests had (enrolled_bytes) and when it came,
 * which pages were written to again (cow_ksm), pressure, free memory, and what a scanned page cost.
 * How much of that memory is alike it learns from the most that was ever saved of it: so record
 * with the policy "unlimited", and long enough. Memory is a ring of lots that came together; a page
 * merges when the scan comes past it for the second time. Available memory is what was recorded,
 * and what the policy saves more or less than was saved then. */
#pragma once

#include "ksm/policy.h"
#include "ksm/trace.h"

struct cs_ksm_replay {
	int64_t ms;             /* how long it took */
	int64_t saved_pages;    /* at the end */
	int64_t mean_pages;     /* saved, over the whole time */
	int64_t possible_pages; /* at the end, with everything scanned */
	int64_t ksmd_us;        /* CPU time */
	int64_t scanned_pages;
	int64_t passes;
	int64_t to_90_ms; /* until nine tenths of what was possible then; -1: never */
	int64_t changes;  /* of the settings */
};

/* (out), when not NULL, gets the trace of the model; to be freed by cs_ksm_trace_clear(). -EINVAL:
 * the trace does not tell how much memory there was, or is longer than a week. */
int cs_ksm_replay(const struct cs_ksm_trace *trace, const struct cs_ksm_policy *policy,
		  const struct cs_ksm_limits *limits, struct cs_ksm_replay *ret,
		  struct cs_ksm_trace *out, struct cs_err *err);
