/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/admit.h"

#define RESERVE_LEAST (UINT64_C(256) << 20)
#define RESERVE_MOST  (UINT64_C(2) << 30)

uint64_t cs_admit_reserve(uint64_t total_bytes)
{
	const uint64_t share = total_bytes / 20;

	if (share < RESERVE_LEAST)
		return RESERVE_LEAST;
	return share < RESERVE_MOST ? share : RESERVE_MOST;
}

static uint64_t headroom(const struct cs_admit *admit)
{
	const uint64_t reserve = cs_admit_reserve(admit->total_bytes);

	return admit->available_bytes > reserve ? admit->available_bytes - reserve : 0;
}

uint64_t cs_admit_each(const struct cs_admit *admit)
{
	return cs_cost_of(&admit->kind, &admit->seen).bytes;
}

uint64_t cs_admit_most(const struct cs_admit *admit)
{
	return headroom(admit) / cs_admit_each(admit);
}

bool cs_admit_surely(const struct cs_admit *admit, uint64_t count)
{
	return count <= headroom(admit) / cs_cost_most(&admit->kind);
}
