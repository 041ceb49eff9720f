/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/rounds.h"

#define GROWN_PART 8

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Those of one age, at most (most), from *at on. */
static size_t ask_some(const struct cs_ksm_crowd *crowd, enum cs_ksm_age age, size_t *at,
		       size_t most)
{
	size_t asked = 0;

	for (size_t i = 0; i < crowd->n && asked < most; i++) {
		*at = *at < crowd->n ? *at : 0;
		if (crowd->age(crowd->arg, *at) == age) {
			crowd->ask(crowd->arg, *at);
			asked++;
		}
		++*at;
	}
	return asked;
}

size_t cs_ksm_rounds_look(struct cs_ksm_rounds *rounds, const struct cs_ksm_crowd *crowd,
			  size_t most)
{
	const size_t kept = most / GROWN_PART ? most / GROWN_PART : most > 1;
	size_t young = 0, grown = 0, asked;

	for (size_t i = 0; i < crowd->n; i++) {
		const enum cs_ksm_age its = crowd->age(crowd->arg, i);

		young += its == CS_KSM_YOUNG;
		grown += its == CS_KSM_GROWN;
	}
	/* No more than there are: nobody is asked twice in a look. */
	if (grown > kept && grown > most - least(young, most))
		grown = most - least(young, most - kept);
	asked = ask_some(crowd, CS_KSM_GROWN, &rounds->grown_at, grown);
	return asked + ask_some(crowd, CS_KSM_YOUNG, &rounds->young_at,
				least(young, most - least(asked, most)));
}
