/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/plan.h"

#include "ksm/admit.h"

/* struct page: 64 bytes for each page of 4 KiB (mm/sparse.c). They are not in MemTotal. */
#define PAGE_STRUCT_SHARE 64

/* Take (bytes) off what is left. */
static uint64_t take(uint64_t *left, uint64_t bytes)
{
	*left = *left > bytes ? *left - bytes : 0;
	return bytes;
}

struct cs_plan cs_plan_of(const struct cs_plan_host *host)
{
	uint64_t left = host->memory_bytes;
	struct cs_plan plan = { 0 };

	if (host->installed)
		plan.page_struct_bytes = take(&left, left / PAGE_STRUCT_SHARE);
	plan.reserve_bytes = take(&left, cs_admit_reserve(left));
	plan.own_bytes = take(&left, host->own_bytes);
	plan.shared_bytes = take(&left, host->shared_bytes);
	plan.room_bytes = left;
	return plan;
}

uint64_t cs_plan_guests(const struct cs_plan *plan, const struct cs_cost *cost)
{
	return plan->room_bytes / cost->bytes;
}

uint64_t cs_plan_own(uint64_t total_bytes, uint64_t available_bytes, uint64_t guests_bytes)
{
	const uint64_t used = total_bytes > available_bytes ? total_bytes - available_bytes : 0;

	return used > guests_bytes ? used - guests_bytes : 0;
}

uint64_t cs_plan_clear(uint64_t memory_bytes)
{
	/* In two steps: the product need not fit. */
	return memory_bytes / CS_PLAN_CLEAR_MEMORY * CS_PLAN_CLEAR_GUESTS +
	       memory_bytes % CS_PLAN_CLEAR_MEMORY * CS_PLAN_CLEAR_GUESTS / CS_PLAN_CLEAR_MEMORY;
}
