/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one more guest costs its host, part by part: measured where guests of its kind run, by a
 * model where not. Pure: same arguments, same answer. `spawn` admits by it (admit.h), `plan`
 * predicts by it (plan.h). Bytes unless named otherwise. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Its kind, as far as that costs. */
struct cs_cost_kind {
	uint64_t ram_bytes;  /* more than that it does not write */
	uint64_t root_bytes; /* a slot of its own */
	unsigned vcpus;
	bool warm;          /* goes on from a saved machine; false: boots */
	bool shadow_paging; /* KVM keeps page tables of the guest's; false: nested paging */
};

/* In the order in which they are shown. */
enum cs_cost_part {
	CS_COST_PRIVATE,     /* pages that it has written */
	CS_COST_MONITOR,     /* private memory of its process besides; of guests measured by
				cs_meter_private() it is in CS_COST_PRIVATE */
	CS_COST_PAGE_TABLES, /* of the process */
	CS_COST_KVM_TABLES,  /* KVM's page tables */
	CS_COST_SLOTS,       /* what KVM keeps for each page of a slot, touched or not */
	CS_COST_VCPUS,       /* their structures, threads and stacks */
	CS_COST_KERNEL,      /* machine, process, sockets, files */
	CS_COST_PARTS,
};

/* What is assumed to be written by guests of which none runs yet: by one that goes on from a saved
 * machine soon after; by one that boots by the time it is ready; and by a command in it. */
#define CS_COST_WARM_BYTES    (UINT64_C(4) << 20)
#define CS_COST_COLD_BYTES    (UINT64_C(40) << 20)
#define CS_COST_COMMAND_BYTES (UINT64_C(832) << 10)

/* Sums over (guests) that run; of a part that is 0 nothing is known. */
struct cs_cost_seen {
	uint64_t guests;
	uint64_t private_bytes, monitor_bytes, page_table_bytes;
	uint64_t kvm_guests, kvm_table_bytes; /* of the whole host (SecPageTables) */
};

struct cs_cost {
	uint64_t part[CS_COST_PARTS];
	bool measured[CS_COST_PARTS];
	uint64_t bytes; /* their sum; never 0 */
};

/* (seen): NULL: none. */
struct cs_cost cs_cost_of(const struct cs_cost_kind *kind, const struct cs_cost_seen *seen);

/* What it costs when it has written to all of its memory. */
uint64_t cs_cost_most(const struct cs_cost_kind *kind);

/* What a guest costs that ran a command, by one that did not. */
struct cs_cost cs_cost_after_command(const struct cs_cost_kind *kind, const struct cs_cost *idle);

/* Bytes that KVM keeps for a page of a slot, of 4 KiB. 0: nothing worth speaking of. */
unsigned cs_cost_slot_page_bytes(const struct cs_cost_kind *kind);

/* One guest, looked at. */
struct cs_cost_sample {
	uint64_t private_bytes, monitor_bytes, page_table_bytes;
};

/* Nobody writes down whether a guest has run anything since it was started; its memory tells. Those
 * that have written little more than the least (half of what a command writes) are taken for idle,
 * the rest, if any, for guests at work. Adds to the sums of both. */
void cs_cost_sort(const struct cs_cost_sample *sample, size_t n, struct cs_cost_seen *idle,
		  struct cs_cost_seen *busy);
