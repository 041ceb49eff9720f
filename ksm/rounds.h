/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is asked in a look that has time for some only: each in turn, and the young more often. Pure.
 */
#pragma once

#include <stddef.h>

enum cs_ksm_age {
	CS_KSM_NOBODY, /* not asked */
	CS_KSM_YOUNG,  /* it changes fast */
	CS_KSM_GROWN,
};

/* Where the last look ended. They may come and go between two: somebody is then asked a round
 * later, or twice. */
struct cs_ksm_rounds {
	size_t young_at, grown_at;
};

typedef enum cs_ksm_age (*cs_ksm_age_fn)(void *arg, size_t i);
typedef void (*cs_ksm_ask_fn)(void *arg, size_t i);

/* Ask at most (most), two at least, of (n). While there are more young ones than that, the grown
 * get an eighth: everyone has been asked after (n) / (most) * 8 looks at the latest. The number
 * asked. */
size_t cs_ksm_rounds_look(struct cs_ksm_rounds *rounds, size_t n, size_t most, cs_ksm_age_fn age,
			  cs_ksm_ask_fn ask, void *arg);
