/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/cost.h"

#include "store/base/guest.h"
#include "store/base/num.h"

/* With shadow paging KVM has for each page of a slot 8 bytes of reverse map and 2 that count who
 * watches for writes; with nested paging neither, until the guest nests (arch/x86/kvm/x86.c
 * kvm_alloc_memslot_metadata). */
#define SHADOW_SLOT_PAGE 10
/* And with both 4 for each block of 2 MiB (struct kvm_lpage_info). */
#define SLOT_BLOCK 4
#define BLOCK      (2 * CS_MIB)

/* A page table is 4 KiB and maps 2 MiB. What a guest touches lies in few of these blocks at first,
 * and then in more: so a base, and what all of it would need for what is written beyond. */
#define TABLE_SHARE   512
#define TABLES_BASE   (128 * CS_KIB)
#define SHADOW_BASE   (256 * CS_KIB)
#define MONITOR_BYTES (256 * CS_KIB)
/* A vCPU: its structures and pages, the thread that runs it, that thread's stack. */
#define VCPU_BYTES (160 * CS_KIB)
/* Pages that KVM takes in advance for its page tables, which no counter has: 40 at a time, again
 * when fewer than 5 are left (arch/x86/kvm/mmu/mmu.c mmu_topup_memory_caches), so 22 on average;
 * with shadow paging as many again, for what the tables shadow. */
#define VCPU_CACHE (22 * CS_PAGE_BYTES)
/* A machine and its process: two threads, KVM's structures and interrupt chips, mappings, files,
 * sockets. */
#define KERNEL_BYTES (256 * CS_KIB)

unsigned cs_cost_slot_page_bytes(const struct cs_cost_kind *kind)
{
	return kind->shadow_paging ? SHADOW_SLOT_PAGE : 0;
}

static uint64_t slots(const struct cs_cost_kind *kind)
{
	const uint64_t bytes = cs_align_up(kind->ram_bytes, CS_PAGE_BYTES) +
			       cs_align_up(kind->root_bytes, CS_ROOT_GRAIN);

	return bytes / CS_PAGE_BYTES * cs_cost_slot_page_bytes(kind) + bytes / BLOCK * SLOT_BLOCK;
}

static uint64_t at_most(uint64_t bytes, uint64_t most)
{
	return bytes < most ? bytes : most;
}

/* All that follows from how much is private. */
static void fill(const struct cs_cost_kind *kind, uint64_t private_bytes, struct cs_cost *ret)
{
	const uint64_t tables = private_bytes / TABLE_SHARE;

	ret->part[CS_COST_PRIVATE] = private_bytes;
	ret->part[CS_COST_PAGE_TABLES] = TABLES_BASE + tables;
	ret->part[CS_COST_KVM_TABLES] = (kind->shadow_paging ? SHADOW_BASE : TABLES_BASE) + tables;
	ret->part[CS_COST_SLOTS] = slots(kind);
	ret->part[CS_COST_VCPUS] =
		kind->vcpus * (VCPU_BYTES + VCPU_CACHE * (kind->shadow_paging ? 2 : 1));
	ret->part[CS_COST_KERNEL] = KERNEL_BYTES;
}

static void sum(struct cs_cost *cost)
{
	cost->bytes = 0;
	for (size_t i = 0; i < CS_COST_PARTS; i++)
		cost->bytes += cost->part[i];
}

static void put(struct cs_cost *cost, enum cs_cost_part part, uint64_t bytes, uint64_t guests)
{
	if (!bytes || !guests)
		return;
	cost->part[part] = bytes / guests;
	cost->measured[part] = true;
}

struct cs_cost cs_cost_of(const struct cs_cost_kind *kind, const struct cs_cost_seen *seen)
{
	static const struct cs_cost_seen none = { 0 };
	const struct cs_cost_seen *s = seen ? seen : &none;
	uint64_t bytes = kind->warm ? CS_COST_WARM_BYTES : CS_COST_COLD_BYTES;
	struct cs_cost cost = { 0 };

	if (s->guests)
		bytes = s->private_bytes / s->guests;
	fill(kind, at_most(bytes, kind->ram_bytes), &cost);
	/* Guests that were seen have their monitor in one or the other. */
	cost.part[CS_COST_MONITOR] = s->guests ? 0 : MONITOR_BYTES;
	cost.measured[CS_COST_PRIVATE] = cost.measured[CS_COST_MONITOR] = s->guests != 0;
	put(&cost, CS_COST_MONITOR, s->monitor_bytes, s->guests);
	put(&cost, CS_COST_PAGE_TABLES, s->page_table_bytes, s->guests);
	put(&cost, CS_COST_KVM_TABLES, s->kvm_table_bytes, s->kvm_guests);
	sum(&cost);
	return cost;
}

uint64_t cs_cost_most(const struct cs_cost_kind *kind)
{
	struct cs_cost cost = { 0 };

	fill(kind, kind->ram_bytes, &cost);
	cost.part[CS_COST_MONITOR] = MONITOR_BYTES;
	sum(&cost);
	return cost.bytes;
}

struct cs_cost cs_cost_after_command(const struct cs_cost_kind *kind, const struct cs_cost *idle)
{
	const uint64_t had = idle->part[CS_COST_PRIVATE];
	const uint64_t has = at_most(had + CS_COST_COMMAND_BYTES, kind->ram_bytes);
	const uint64_t tables = has > had ? (has - had) / TABLE_SHARE : 0;
	struct cs_cost cost = *idle;

	cost.part[CS_COST_PRIVATE] = has;
	cost.part[CS_COST_PAGE_TABLES] += tables;
	cost.part[CS_COST_KVM_TABLES] += tables;
	cost.measured[CS_COST_PRIVATE] = false;
	sum(&cost);
	return cost;
}

void cs_cost_sort(const struct cs_cost_sample *sample, size_t n, struct cs_cost_seen *idle,
		  struct cs_cost_seen *busy)
{
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < n; i++)
		least = at_most(sample[i].private_bytes, least);
	for (size_t i = 0; i < n; i++) {
		const uint64_t more = sample[i].private_bytes - least;
		struct cs_cost_seen *to = more > CS_COST_COMMAND_BYTES / 2 ? busy : idle;

		to->guests++;
		to->private_bytes += sample[i].private_bytes;
		to->monitor_bytes += sample[i].monitor_bytes;
		to->page_table_bytes += sample[i].page_table_bytes;
	}
}
