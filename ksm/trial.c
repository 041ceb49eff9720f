/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/trial.h"

#define PASSES 2 /* the first takes checksums, the second merges */
#define LOSSES 2

void cs_ksm_trial_begin(struct cs_ksm_trial *trial, int64_t full_scans)
{
	*trial = (struct cs_ksm_trial){ .since_scans = full_scans };
}

bool cs_ksm_trial_is_due(const struct cs_ksm_trial *trial, int64_t full_scans)
{
	const int64_t wait = trial->losses ? 1 : PASSES;

	/* Not known, and a counter that began anew, are no scans. */
	return trial->since_scans >= 0 && full_scans >= trial->since_scans &&
	       full_scans - trial->since_scans >= wait;
}

void cs_ksm_trial_judge(struct cs_ksm_trial *trial, int64_t full_scans, int64_t profit_bytes,
			size_t peers)
{
	trial->losses = profit_bytes < 0 ? trial->losses + 1 : 0;
	trial->since_scans = full_scans;
	if (trial->losses < LOSSES)
		return;
	trial->lost = true;
	trial->peers = peers;
}

void cs_ksm_trial_review(struct cs_ksm_trial *trial, size_t peers)
{
	if (trial->lost && peers / 2 >= trial->peers && peers > trial->peers)
		*trial = (struct cs_ksm_trial){ .since_scans = trial->since_scans };
}
