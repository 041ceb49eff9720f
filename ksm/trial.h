/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Does merging pay for a guest? KSM keeps 64 bytes for each page it knows of; a guest that has next
 * to nothing in common with others costs more than it saves. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cs_ksm_trial {
	int64_t since_scans; /* full scans (ksm/ksm.h) when it was let in, or last judged */
	unsigned losses;     /* one after the other */
	bool lost;           /* it is to be taken out, and stays so */
	size_t peers;        /* how many might have had the same then */
};

/* It was let in. */
void cs_ksm_trial_begin(struct cs_ksm_trial *trial, int64_t full_scans);

/* Has it had its chance since: two passes, or one more after a loss? Ask for its profit then. */
bool cs_ksm_trial_is_due(const struct cs_ksm_trial *trial, int64_t full_scans);

/* It has lost when (profit_bytes) was below 0 twice in a row. (peers): guests of its share domain.
 */
void cs_ksm_trial_judge(struct cs_ksm_trial *trial, int64_t full_scans, int64_t profit_bytes,
			size_t peers);

/* Once there are twice as many guests, who lost is let in again: what it has may be there by now.
 * The first guest of a domain always loses while it is alone. */
void cs_ksm_trial_review(struct cs_ksm_trial *trial, size_t peers);
