/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/rounds.h"

#define GROWN_PART 8

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

struct round {
	size_t n;
	cs_ksm_age_fn age;
	cs_ksm_ask_fn ask;
	void *arg;
};

/* Those of one age, at most (most), from *at on. */
static size_t ask_some(const struct round *round, enum cs_ksm_age age, size_t *at, size_t most)
{
	size_t asked = 0;

	for (size_t i = 0; i < round->n && asked < most; i++) {
		*at = *at < round->n ? *at : 0;
		if (round->age(round->arg, *at) == age) {
			round->ask(round->arg, *at);
			asked++;
		}
		++*at;
	}
	return asked;
}

size_t cs_ksm_rounds_look(struct cs_ksm_rounds *rounds, size_t n, size_t most, cs_ksm_age_fn age,
			  cs_ksm_ask_fn ask, void *arg)
{
	const struct round round = { n, age, ask, arg };
	const size_t kept = most / GROWN_PART ? most / GROWN_PART : most > 1;
	size_t young = 0, grown = 0, asked;

	for (size_t i = 0; i < n; i++) {
		const enum cs_ksm_age its = age(arg, i);

		young += its == CS_KSM_YOUNG;
		grown += its == CS_KSM_GROWN;
	}
	/* No more than there are: nobody is asked twice in a look. */
	if (grown > kept && grown > most - least(young, most))
		grown = most - least(young, most - kept);
	asked = ask_some(&round, CS_KSM_GROWN, &rounds->grown_at, grown);
	return asked + ask_some(&round, CS_KSM_YOUNG, &rounds->young_at,
				least(young, most - least(asked, most)));
}
