/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many more guests a host can take. Pure: same arguments, same answer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ksm/cost.h"

struct cs_admit {
	uint64_t total_bytes, available_bytes; /* of the host: MemTotal, MemAvailable */
	struct cs_cost_kind kind;              /* of the guests */
	struct cs_cost_seen seen;              /* of those of their kind that run */
};

/* What the host keeps for itself: a twentieth, at least 256 MiB, at most 2 GiB. */
uint64_t cs_admit_reserve(uint64_t total_bytes);

/* What one more guest is expected to cost. */
uint64_t cs_admit_each(const struct cs_admit *admit);

/* How many more there is memory for without touching the reserve. */
uint64_t cs_admit_most(const struct cs_admit *admit);

/* (count) of them fit even if each writes to all of its memory: nothing need be measured. */
bool cs_admit_surely(const struct cs_admit *admit, uint64_t count);
