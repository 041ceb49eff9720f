/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest is said to cost, part by part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ksm/cost.h"

#define KIB      (UINT64_C(1) << 10)
#define MIB      (UINT64_C(1) << 20)
#define GIB      (UINT64_C(1) << 30)
#define N(array) (sizeof(array) / sizeof((array)[0]))

static void assert_adds_up(const struct cs_cost *cost)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < CS_COST_PARTS; i++)
		sum += cost->part[i];
	assert_int_equal(sum, cost->bytes);
	assert_true(cost->bytes > 0);
}

static void test_slots(void **state)
{
	static const struct {
		struct cs_cost_kind kind;
		uint64_t bytes;
	} rows[] = {
		{ { .ram_bytes = 128 * MIB, .shadow_paging = true }, 327680 + 256 },
		{ { .ram_bytes = GIB, .shadow_paging = true }, 2560 * KIB + 2048 },
		{ { .ram_bytes = 128 * MIB }, 256 },
		{ { .ram_bytes = 128 * MIB, .root_bytes = 128 * MIB }, 512 },
		/* a slot of the root is of whole 2 MiB */
		{ { .ram_bytes = 128 * MIB, .root_bytes = 1, .shadow_paging = true },
		  (32768 + 512) * 10 + 65 * 4 },
		{ { .ram_bytes = 128 * MIB, .root_bytes = 256 * MIB, .shadow_paging = true },
		  3 * (327680 + 256) },
		{ { .ram_bytes = 0 }, 0 },
	};

	for (size_t i = 0; i < N(rows); i++) {
		const struct cs_cost cost = cs_cost_of(&rows[i].kind, NULL);

		assert_int_equal(cost.part[CS_COST_SLOTS], rows[i].bytes);
		assert_false(cost.measured[CS_COST_SLOTS]);
		assert_adds_up(&cost);
	}
	assert_int_equal(cs_cost_slot_page_bytes(&rows[0].kind), 10);
	assert_int_equal(cs_cost_slot_page_bytes(&rows[2].kind), 0);
}

static void test_private(void **state)
{
	static const struct {
		uint64_t ram_bytes;
		bool warm;
		struct cs_cost_seen seen;
		uint64_t bytes;
		bool measured;
	} rows[] = {
		{ 128 * MIB, false, { 0 }, CS_COST_COLD_BYTES, false },
		{ 128 * MIB, true, { 0 }, CS_COST_WARM_BYTES, false },
		{ 24 * MIB, false, { 0 }, 24 * MIB, false },
		/* what is measured counts, whatever it is ... */
		{ 128 * MIB, true, { 4, 4 * 70 * MIB }, 70 * MIB, true },
		{ 128 * MIB, false, { 4, 4 * 70 * MIB }, 70 * MIB, true },
		{ 128 * MIB, true, { 4, 0 }, 0, true },
		/* ... but for what cannot be. */
		{ 128 * MIB, true, { 4, UINT64_MAX }, 128 * MIB, true },
	};

	for (size_t i = 0; i < N(rows); i++) {
		const struct cs_cost_kind kind = { .ram_bytes = rows[i].ram_bytes,
						   .vcpus = 1,
						   .warm = rows[i].warm };
		const struct cs_cost cost = cs_cost_of(&kind, &rows[i].seen);

		assert_int_equal(cost.part[CS_COST_PRIVATE], rows[i].bytes);
		assert_int_equal(cost.measured[CS_COST_PRIVATE], rows[i].measured);
		/* the monitor of those that were seen is in what they have */
		assert_int_equal(cost.part[CS_COST_MONITOR] == 0, rows[i].measured);
		assert_adds_up(&cost);
	}
}

static void test_measured(void **state)
{
	const struct cs_cost_kind kind = { .ram_bytes = 128 * MIB, .vcpus = 1, .warm = true };
	const struct cs_cost_seen seen = { .guests = 10,
					   .private_bytes = 10 * MIB,
					   .monitor_bytes = 2000 * KIB,
					   .page_table_bytes = 1500 * KIB,
					   .kvm_guests = 20,
					   .kvm_table_bytes = 6000 * KIB };
	const struct cs_cost cost = cs_cost_of(&kind, &seen), model = cs_cost_of(&kind, NULL);
	static const struct {
		enum cs_cost_part part;
		uint64_t bytes;
	} rows[] = {
		{ CS_COST_PRIVATE, MIB },
		{ CS_COST_MONITOR, 200 * KIB },
		{ CS_COST_PAGE_TABLES, 150 * KIB },
		{ CS_COST_KVM_TABLES, 300 * KIB },
	};

	for (size_t i = 0; i < N(rows); i++) {
		assert_int_equal(cost.part[rows[i].part], rows[i].bytes);
		assert_true(cost.measured[rows[i].part]);
		assert_false(model.measured[rows[i].part]);
	}
	assert_int_equal(cost.part[CS_COST_SLOTS], model.part[CS_COST_SLOTS]);
	assert_false(cost.measured[CS_COST_VCPUS]);
	assert_false(cost.measured[CS_COST_KERNEL]);
	assert_adds_up(&cost);
}

/* Each of these makes a guest dearer, and nothing else changes with it. */
static void test_more(void **state)
{
	const struct cs_cost_kind least = { .ram_bytes = 128 * MIB, .vcpus = 1, .warm = true };
	struct cs_cost_kind more[] = { least, least, least, least };
	const struct cs_cost cost = cs_cost_of(&least, NULL);

	more[0].vcpus = 2;
	more[1].shadow_paging = true;
	more[2].root_bytes = GIB;
	more[3].warm = false;
	for (size_t i = 0; i < N(more); i++)
		assert_true(cs_cost_of(&more[i], NULL).bytes > cost.bytes);
	assert_int_equal(cs_cost_of(&more[0], NULL).bytes - cost.bytes, cost.part[CS_COST_VCPUS]);
}

static void test_most(void **state)
{
	struct cs_cost_kind kind = { .ram_bytes = 128 * MIB, .vcpus = 1 };

	for (unsigned i = 0; i < 4; i++) {
		kind.shadow_paging = i & 1;
		kind.warm = i & 2;
		/* never less than what it may be expected to cost, nor than its memory and tables
		 */
		assert_true(cs_cost_most(&kind) > cs_cost_of(&kind, NULL).bytes);
		assert_true(cs_cost_most(&kind) > 128 * MIB + 2 * (128 * MIB / 512));
		assert_true(cs_cost_most(&kind) < 132 * MIB);
	}
	kind.ram_bytes = UINT64_MAX / 2; /* no guest's, but nothing wraps */
	assert_true(cs_cost_most(&kind) > UINT64_MAX / 2);
}

static void test_after_command(void **state)
{
	const struct cs_cost_kind kind = { .ram_bytes = 128 * MIB, .vcpus = 1, .warm = true };
	const struct cs_cost_seen seen = { .guests = 1, .private_bytes = MIB },
				  all = { .guests = 1, .private_bytes = 128 * MIB };
	struct cs_cost idle = cs_cost_of(&kind, &seen), busy;

	busy = cs_cost_after_command(&kind, &idle);
	assert_int_equal(busy.part[CS_COST_PRIVATE], MIB + CS_COST_COMMAND_BYTES);
	assert_false(busy.measured[CS_COST_PRIVATE]);
	assert_int_equal(busy.part[CS_COST_SLOTS], idle.part[CS_COST_SLOTS]);
	assert_true(busy.bytes > idle.bytes + CS_COST_COMMAND_BYTES);
	assert_adds_up(&busy);
	/* one that has written to all of its memory has no more */
	idle = cs_cost_of(&kind, &all);
	busy = cs_cost_after_command(&kind, &idle);
	assert_int_equal(busy.bytes, idle.bytes);
}

static void test_sort(void **state)
{
	static const struct {
		uint64_t kib[4];
		size_t n, idle, busy;
		uint64_t idle_kib, busy_kib;
	} rows[] = {
		{ { 0 }, 0, 0, 0, 0, 0 },
		{ { 600 }, 1, 1, 0, 600, 0 },
		{ { 600, 620, 590 }, 3, 3, 0, 1810, 0 },
		{ { 1500, 600, 620, 1400 }, 4, 2, 2, 1220, 2900 },
		{ { 600, 600 + 416, 600 + 417 }, 3, 2, 1, 1616, 1017 },
		{ { 0, 90000 }, 2, 1, 1, 0, 90000 },
		/* all have run something, or none: that cannot be told */
		{ { 1500, 1400 }, 2, 2, 0, 2900, 0 },
	};

	for (size_t i = 0; i < N(rows); i++) {
		struct cs_cost_seen idle = { .kvm_guests = 7 }, busy = { 0 };
		struct cs_cost_sample sample[4];

		for (size_t j = 0; j < rows[i].n; j++)
			sample[j] = (struct cs_cost_sample){ rows[i].kib[j] * KIB, KIB, 2 * KIB };
		cs_cost_sort(sample, rows[i].n, &idle, &busy);
		assert_int_equal(idle.guests, rows[i].idle);
		assert_int_equal(busy.guests, rows[i].busy);
		assert_int_equal(idle.private_bytes, rows[i].idle_kib * KIB);
		assert_int_equal(busy.private_bytes, rows[i].busy_kib * KIB);
		assert_int_equal(idle.monitor_bytes, rows[i].idle * KIB);
		assert_int_equal(busy.page_table_bytes, rows[i].busy * 2 * KIB);
		assert_int_equal(idle.kvm_guests, 7);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_slots),    cmocka_unit_test(test_private),
		cmocka_unit_test(test_measured), cmocka_unit_test(test_more),
		cmocka_unit_test(test_most),     cmocka_unit_test(test_after_command),
		cmocka_unit_test(test_sort),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
