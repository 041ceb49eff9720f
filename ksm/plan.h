/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many guests the memory of a host carries; its CPUs are not asked. Pure: same arguments, same
 * answer. Bytes unless named otherwise. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ksm/cost.h"

/* Intel's Clear Containers (2015) as published: over 3500 guests on 128 GB, at 18 to 20 MB each.
 * The two do not agree: 128 GB for 3500 are 37 MB each. */
#define CS_PLAN_CLEAR_GUESTS UINT64_C(3500)
#define CS_PLAN_CLEAR_MEMORY (UINT64_C(128) << 30)
#define CS_PLAN_CLEAR_EACH   UINT64_C(20000000)

/* What a host without guests is taken to use when that cannot be measured. */
#define CS_PLAN_OWN_BYTES (UINT64_C(384) << 20)

struct cs_plan_host {
	uint64_t memory_bytes;
	bool installed;     /* as bought: the kernel's page structures come off it; false: what the
			       kernel gives out (MemTotal) */
	uint64_t own_bytes; /* what it uses without guests */
	uint64_t shared_bytes; /* of the template, in the page cache, once for all guests */
};

/* Where the memory of a host goes: the five add up to it, or are more than there is (and then there
 * is no room). */
struct cs_plan {
	uint64_t page_struct_bytes; /* the kernel's, for each page of memory */
	uint64_t own_bytes;
	uint64_t reserve_bytes; /* stays free, as at admission (admit.h) */
	uint64_t shared_bytes;
	uint64_t room_bytes; /* for guests */
};

struct cs_plan cs_plan_of(const struct cs_plan_host *host);

/* How many guests of (cost) the room is enough for. */
uint64_t cs_plan_guests(const struct cs_plan *plan, const struct cs_cost *cost);

/* Bytes that a host uses without guests, told from one whose guests use (guests_bytes) in all: what
 * is not available less theirs; 0 when theirs is more. */
uint64_t cs_plan_own(uint64_t total_bytes, uint64_t available_bytes, uint64_t guests_bytes);

/* How many Clear Containers (memory_bytes) held: by their count, scaled. */
uint64_t cs_plan_clear(uint64_t memory_bytes);
