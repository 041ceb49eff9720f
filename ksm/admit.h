/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many more guests a host can take. Pure: same arguments, same answer. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a guest costs besides the memory of its process: the kernel's and KVM's structures, its page
 * tables (measured for 128 MiB: 0.4 to 0.6 MiB with shadow paging, less with nested paging). */
#define CS_ADMIT_KERNEL_BYTES (UINT64_C(640) << 10)

/* What is assumed of guests of which none runs yet: one that goes on from a saved machine has
 * written so much soon after; one that boots, so much by the time it is ready. */
#define CS_ADMIT_WARM_BYTES (UINT64_C(4) << 20)
#define CS_ADMIT_COLD_BYTES (UINT64_C(40) << 20)

struct cs_admit {
	uint64_t total_bytes, available_bytes; /* of the host: MemTotal, MemAvailable */
	uint64_t ram_bytes;                    /* of a guest: more it will not cost */
	uint64_t private_bytes; /* of the processes of (measured) guests that run, in sum */
	uint64_t measured;
	bool warm; /* they go on from a saved machine */
};

/* What the host keeps for itself: a twentieth, at least 256 MiB, at most 2 GiB. */
uint64_t cs_admit_reserve(uint64_t total_bytes);

/* What one more guest is expected to cost. */
uint64_t cs_admit_each(const struct cs_admit *admit);

/* How many more there is memory for without touching the reserve. */
uint64_t cs_admit_most(const struct cs_admit *admit);

/* (count) of them fit even if each writes to all of its memory: nothing need be measured. */
bool cs_admit_surely(const struct cs_admit *admit, uint64_t count);
