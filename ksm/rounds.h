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

/* Those that may be asked. (arg) is what age() and ask() are called with, for the i-th of them. */
struct cs_ksm_crowd {
	size_t n;
	enum cs_ksm_age (*age)(void *arg, size_t i);
	void (*ask)(void *arg, size_t i);
	void *arg;
};

/* Ask at most (most), two at least, of the crowd. While there are more young ones than that, the
 * grown get an eighth: everyone has been asked after n / (most) * 8 looks at the latest. The number
 * asked. */
size_t cs_ksm_rounds_look(struct cs_ksm_rounds *rounds, const struct cs_ksm_crowd *crowd,
			  size_t most);
