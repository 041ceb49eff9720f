/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU and a VM that are saved and loaded, with a KVM that keeps what it is told, in order (ioctl
 * is wrapped at link time). */
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <cmocka.h>

#include "vmm/irq.h"
#include "vmm/vcpu-private.h"

#define CALLS_MAX 64
#define KHZ       2500000

enum {
	TSC = 0x10,
	WALL_CLOCK = 0x11,
	SYSTEM_TIME = 0x12,
	DEADLINE = 0x6e0,
	PAT = 0x277,
	EFER_LIKE = 0xc0000081,
	NOT_READABLE = 0x3b,
	NOT_SETTABLE = 0x17b,
	SYSTEM_TIME_NEW = 0x4b564d01,
};

/* As a host lists them: in no order that is of use. */
static const uint32_t listed[] = { DEADLINE,     WALL_CLOCK,  EFER_LIKE, NOT_READABLE,   TSC,
				   NOT_SETTABLE, SYSTEM_TIME, PAT,       SYSTEM_TIME_NEW };
#define LISTED (sizeof(listed) / sizeof(listed[0]))

static struct fake {
	struct kvm_mp_state mp;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	uint64_t msr[LISTED];
	uint32_t nent;
	struct kvm_cpuid_entry2 cpuid[4];
	int khz, set_khz;
	bool no_pit, fixed_tsc;
	unsigned long refuse; /* this one fails */

	unsigned long call[CALLS_MAX]; /* those that set something */
	unsigned calls;
	uint32_t msr_order[LISTED];
	unsigned msrs_set;
} fake;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

static int index_of(uint32_t msr)
{
	for (size_t i = 0; i < LISTED; i++) {
		if (listed[i] == msr)
			return (int)i;
	}
	return -1;
}

static int get_msrs(struct kvm_msrs *msrs)
{
	for (uint32_t i = 0; i < msrs->nmsrs; i++) {
		if (msrs->entries[i].index == NOT_READABLE)
			return (int)i;
		msrs->entries[i].data = fake.msr[index_of(msrs->entries[i].index)];
	}
	return (int)msrs->nmsrs;
}

static int set_msrs(const struct kvm_msrs *msrs)
{
	for (uint32_t i = 0; i < msrs->nmsrs; i++) {
		if (msrs->entries[i].index == NOT_SETTABLE)
			return (int)i;
		if (msrs->entries[i].index != TSC || !fake.fixed_tsc)
			fake.msr[index_of(msrs->entries[i].index)] = msrs->entries[i].data;
		fake.msr_order[fake.msrs_set++] = msrs->entries[i].index;
	}
	return (int)msrs->nmsrs;
}

/* The pairs that only copy. */
static bool copies(unsigned long request, void *arg)
{
	const struct {
		unsigned long get, set;
		void *at;
		size_t bytes;
	} pairs[] = {
		{ KVM_GET_MP_STATE, KVM_SET_MP_STATE, &fake.mp, sizeof(fake.mp) },
		{ KVM_GET_REGS, KVM_SET_REGS, &fake.regs, sizeof(fake.regs) },
		{ KVM_GET_SREGS, KVM_SET_SREGS, &fake.sregs, sizeof(fake.sregs) },
		{ KVM_GET_XSAVE, KVM_SET_XSAVE, &fake.xsave, sizeof(fake.xsave) },
		{ KVM_GET_XCRS, KVM_SET_XCRS, &fake.xcrs, sizeof(fake.xcrs) },
		{ KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, &fake.debug, sizeof(fake.debug) },
		{ KVM_GET_LAPIC, KVM_SET_LAPIC, &fake.lapic, sizeof(fake.lapic) },
		{ KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, &fake.events, sizeof(fake.events) },
		{ KVM_GET_CLOCK, KVM_SET_CLOCK, &fake.clock, sizeof(fake.clock) },
		{ KVM_GET_PIT2, KVM_SET_PIT2, &fake.pit, sizeof(fake.pit) },
	};

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		if (request == pairs[i].get)
			memcpy(arg, pairs[i].at, pairs[i].bytes);
		else if (request == pairs[i].set)
			memcpy(pairs[i].at, arg, pairs[i].bytes);
		else
			continue;
		return true;
	}
	return false;
}

static int fail_with(int code)
{
	errno = code;
	return -1;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	struct kvm_cpuid2 *cpuid = arg;
	struct kvm_irqchip *chip = arg;
	const bool sets = _IOC_DIR(request) == _IOC_WRITE || request == KVM_SET_MSRS;

	if (sets)
		fake.call[fake.calls++] = request;
	if (request == fake.refuse)
		return fail_with(EINVAL);
	if (request == KVM_GET_PIT2 && fake.no_pit)
		return fail_with(ENXIO);
	if (request == KVM_CREATE_PIT2) {
		fake.no_pit = false;
		return 0;
	}
	if (copies(request, arg))
		return 0;
	switch (request) {
	case KVM_GET_MSRS:
		return get_msrs(arg);
	case KVM_SET_MSRS:
		return set_msrs(arg);
	case KVM_GET_CPUID2:
		cpuid->nent = fake.nent;
		memcpy(cpuid->entries, fake.cpuid, sizeof(fake.cpuid));
		return 0;
	case KVM_SET_CPUID2:
		assert_int_equal(cpuid->nent, fake.nent);
		return 0;
	case KVM_GET_TSC_KHZ:
		return fake.khz;
	case KVM_SET_TSC_KHZ:
		fake.set_khz = (int)(uintptr_t)arg;
		return 0;
	case KVM_GET_IRQCHIP:
		*chip = fake.chip[chip->chip_id];
		return 0;
	case KVM_SET_IRQCHIP:
		fake.call[fake.calls++] = request;
		fake.chip[chip->chip_id] = *chip;
		return 0;
	}
	return fail_with(ENOTTY);
}

/* ---- a host and its vCPU */

static struct host {
	struct cs_host_kvm kvm;
	struct cs_vcpu vcpu;
	struct kvm_cpuid2 *shown;
	struct kvm_msr_list *msrs;
} host;

static int setup(void **state)
{
	memset(&fake, 0, sizeof(fake));
	fake.khz = KHZ;
	fake.nent = 3;
	fake.cpuid[0] = (struct kvm_cpuid_entry2){ .function = 0, .ebx = 0x756e6547 };
	fake.cpuid[1] = (struct kvm_cpuid_entry2){ .function = 1, .eax = 0x306c3, .ecx = 0x0f };
	fake.cpuid[2] = (struct kvm_cpuid_entry2){ .function = 7,
						   .ebx = 0xf0,
						   .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
	host.shown = calloc(1, sizeof(*host.shown) + sizeof(fake.cpuid));
	host.shown->nent = fake.nent;
	memcpy(host.shown->entries, fake.cpuid, sizeof(fake.cpuid));
	host.msrs = calloc(1, sizeof(*host.msrs) + sizeof(listed));
	host.msrs->nmsrs = LISTED;
	memcpy(host.msrs->indices, listed, sizeof(listed));
	host.kvm = (struct cs_host_kvm){ .cpuid = host.shown,
					 .shown = host.shown,
					 .msrs = host.msrs,
					 .tsc_khz = KHZ,
					 .xsave_bytes = sizeof(struct kvm_xsave),
					 .xcrs = true };
	host.vcpu = (struct cs_vcpu){ .kvm = &host.kvm, .id = 1, .fd = -1 };
	return 0;
}

static int teardown(void **state)
{
	free(host.shown);
	free(host.msrs);
	return 0;
}

static void fill(void *at, size_t bytes, uint8_t from)
{
	for (size_t i = 0; i < bytes; i++)
		((uint8_t *)at)[i] = (uint8_t)(from + i);
}

/* A vCPU that has done something. */
static void use(void)
{
	fake.mp.mp_state = KVM_MP_STATE_HALTED;
	fill(&fake.regs, sizeof(fake.regs), 1);
	fill(&fake.sregs, sizeof(fake.sregs), 2);
	fill(&fake.xsave, sizeof(fake.xsave), 3);
	fill(&fake.xcrs, sizeof(fake.xcrs), 4);
	fill(&fake.debug, sizeof(fake.debug), 5);
	fill(&fake.lapic, sizeof(fake.lapic), 6);
	fill(&fake.events, sizeof(fake.events), 7);
	for (size_t i = 0; i < LISTED; i++)
		fake.msr[i] = listed[i] == NOT_SETTABLE ? 0 : 1000 + listed[i];
	for (unsigned i = 0; i < 3; i++) {
		fill(&fake.chip[i].chip, sizeof(fake.chip[i].chip), (uint8_t)(8 + i));
		fake.chip[i].chip_id = i;
	}
	fill(&fake.pit, sizeof(fake.pit), 11);
	fake.clock = (struct kvm_clock_data){ .clock = 12345, .flags = 2 };
}

static struct cs_stream *save(void)
{
	struct cs_stream *s = cs_stream_create();
	struct cs_err err = { 0 };

	cs_vcpu_state(&host.vcpu, s);
	cs_vm_state(-1, s);
	assert_int_equal(cs_stream_end(s, &err), 0);
	return s;
}

static int load(const struct cs_stream *saved, struct cs_err *err)
{
	size_t bytes;
	const void *data = cs_stream_data(saved, &bytes);
	struct cs_stream *s = cs_stream_open(data, bytes);
	int r;

	*err = (struct cs_err){ 0 };
	fake.calls = fake.msrs_set = 0;
	cs_vcpu_state(&host.vcpu, s);
	cs_vm_state(-1, s);
	r = cs_stream_end(s, err);
	cs_stream_free(s);
	return r;
}

/* Where a call came; a big number: never. */
static unsigned place(unsigned long request)
{
	for (unsigned i = 0; i < fake.calls; i++) {
		if (fake.call[i] == request)
			return i;
	}
	return 1000;
}

static void test_round_trip(void **state)
{
	struct cs_stream *saved;
	struct cs_err err;
	struct fake before;

	use();
	before = fake;
	saved = save();
	assert_int_equal(fake.calls, 0); /* saving sets nothing */

	teardown(state);
	setup(state);
	assert_int_equal(load(saved, &err), 0);
	assert_memory_equal(&fake.mp, &before.mp, sizeof(fake.mp));
	assert_memory_equal(&fake.regs, &before.regs, sizeof(fake.regs));
	assert_memory_equal(&fake.sregs, &before.sregs, sizeof(fake.sregs));
	assert_memory_equal(&fake.xsave, &before.xsave, sizeof(fake.xsave));
	assert_memory_equal(&fake.xcrs, &before.xcrs, sizeof(fake.xcrs));
	assert_memory_equal(&fake.debug, &before.debug, sizeof(fake.debug));
	assert_memory_equal(&fake.lapic, &before.lapic, sizeof(fake.lapic));
	assert_memory_equal(&fake.events, &before.events, sizeof(fake.events));
	assert_memory_equal(&fake.pit, &before.pit, sizeof(fake.pit));
	for (unsigned i = 0; i < 3; i++)
		assert_memory_equal(&fake.chip[i].chip, &before.chip[i].chip,
				    sizeof(fake.chip[i].chip));
	/* The clock goes on; no flag has it jump to the host's. */
	assert_int_equal(fake.clock.clock, 12345);
	assert_int_equal(fake.clock.flags, 0);
	cs_stream_free(saved);
}

static void test_order(void **state)
{
	struct cs_stream *saved;
	struct cs_err err;

	use();
	saved = save();
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(place(KVM_SET_CPUID2), 0);
	assert_true(place(KVM_SET_SREGS) < place(KVM_SET_LAPIC));
	assert_true(place(KVM_SET_LAPIC) < place(KVM_SET_MSRS));
	assert_true(place(KVM_SET_REGS) < place(KVM_SET_VCPU_EVENTS));
	assert_true(place(KVM_SET_MSRS) < place(KVM_SET_VCPU_EVENTS));
	assert_true(place(KVM_SET_VCPU_EVENTS) < place(KVM_SET_IRQCHIP));

	/* TSC first, its deadline last; no wall clock, no second name, none that is not readable.
	 */
	assert_int_equal(fake.msrs_set, 5);
	assert_int_equal(fake.msr_order[0], TSC);
	assert_int_equal(fake.msr_order[4], DEADLINE);
	for (unsigned i = 0; i < fake.msrs_set; i++) {
		assert_int_not_equal(fake.msr_order[i], WALL_CLOCK);
		assert_int_not_equal(fake.msr_order[i], SYSTEM_TIME);
		assert_int_not_equal(fake.msr_order[i], NOT_READABLE);
	}
	cs_stream_free(saved);
}

/* What stands as KVM makes it costs no call. */
static void test_reset_state(void **state)
{
	struct cs_stream *saved;
	struct cs_err err;

	fake.debug = (struct kvm_debugregs){ .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	fake.xcrs = (struct kvm_xcrs){ .nr_xcrs = 1, .xcrs = { { .value = 1 } } };
	saved = save();
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(place(KVM_SET_DEBUGREGS), 1000);
	assert_int_equal(place(KVM_SET_XCRS), 1000);
	cs_stream_free(saved);
}

static void expect_stale(const struct cs_stream *saved, const char *words)
{
	struct cs_err err;

	assert_int_equal(load(saved, &err), -ESTALE);
	assert_non_null(strstr(err.text, words));
}

static void test_other_cpu(void **state)
{
	struct cs_stream *saved = save();
	struct cs_err err;

	/* More features than were saved, and what KVM keeps in step itself: fits. */
	host.shown->entries[1].ecx |= 0xff0;
	fake.cpuid[1].ecx |= 1u << 27;
	assert_int_equal(load(saved, &err), 0);
	host.shown->entries[1].ecx &= ~2u;
	expect_stale(saved, "leaf 0x1.0, register c, bits 0x2");
	host.shown->entries[1].ecx |= 2;
	host.shown->entries[2].ebx = 0x70;
	expect_stale(saved, "leaf 0x7.0, register b, bits 0x80");
	host.shown->entries[2].ebx = 0xf0;
	host.shown->entries[1].eax++;
	expect_stale(saved, "model of CPU");
	host.shown->entries[1].eax--;
	host.shown->entries[0].ebx++;
	expect_stale(saved, "model of CPU");
	host.shown->entries[0].ebx--;
	host.shown->nent = 2;
	expect_stale(saved, "leaf 0x7.0");
	cs_stream_free(saved);
}

static void test_other_clock(void **state)
{
	struct cs_stream *saved = save();
	struct cs_err err;

	host.kvm.tsc_khz = KHZ + KHZ / 10000; /* 100 ppm: the same clock, measured again */
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.set_khz, 0);
	host.kvm.tsc_khz = KHZ / 10 * 9;
	expect_stale(saved, "2500000 kHz");
	host.kvm.tsc_control = true;
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.set_khz, KHZ);
	cs_stream_free(saved);
}

/* Where the TSC cannot be put back, the timer keeps the time that it had left. */
static void test_fixed_tsc(void **state)
{
	struct cs_stream *saved;
	struct cs_err err;

	host.kvm.tsc_fixed = true;
	fake.msr[index_of(TSC)] = 5000;
	fake.msr[index_of(DEADLINE)] = 5700;
	saved = save();
	fake.msr[index_of(TSC)] = 900000;
	fake.fixed_tsc = true;
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.msr[index_of(DEADLINE)], 900700);
	/* Also where the host has started anew meanwhile. */
	fake.msr[index_of(TSC)] = 10;
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.msr[index_of(DEADLINE)], 710);
	cs_stream_free(saved);

	/* One that has passed fires now; one that is not set stays so. */
	fake.msr[index_of(TSC)] = 5000;
	fake.msr[index_of(DEADLINE)] = 4000;
	saved = save();
	fake.msr[index_of(TSC)] = 7000;
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.msr[index_of(DEADLINE)], 7000);
	cs_stream_free(saved);
	fake.msr[index_of(DEADLINE)] = 0;
	saved = save();
	assert_int_equal(load(saved, &err), 0);
	assert_int_equal(fake.msr[index_of(DEADLINE)], 0);
	cs_stream_free(saved);
}

static void test_other_kvm(void **state)
{
	struct cs_stream *saved;
	struct cs_err err;

	use();
	saved = save();
	host.kvm.xsave_bytes = 8192;
	expect_stale(saved, "4096 bytes of vector registers");
	host.kvm.xsave_bytes = 4096;
	host.msrs->indices[7] = 0x278;
	expect_stale(saved, "MSR 0x277");
	host.msrs->indices[7] = PAT;
	host.msrs->nmsrs = 2;
	expect_stale(saved, "6 MSRs");
	host.msrs->nmsrs = LISTED;
	fake.no_pit = true;
	fake.refuse = KVM_CREATE_PIT2;
	expect_stale(saved, "with a timer");
	/* A machine is made without one, and gets it when what was saved had it. */
	fake.refuse = 0;
	assert_int_equal(load(saved, &err), 0);
	assert_false(fake.no_pit);
	fake.refuse = KVM_SET_SREGS;
	assert_int_equal(load(saved, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "KVM refuses its system registers"));
	fake.refuse = 0;
	cs_stream_free(saved);

	/* One that is listed and not settable is no loss while it is zero. */
	fake.msr[index_of(NOT_SETTABLE)] = 1;
	saved = save();
	expect_stale(saved, "MSR 0x17b");
	cs_stream_free(saved);
}

static void test_saving_fails(void **state)
{
	struct cs_stream *s = cs_stream_create();
	struct cs_err err = { 0 };

	fake.refuse = KVM_GET_LAPIC;
	cs_vcpu_state(&host.vcpu, s);
	assert_int_equal(cs_stream_end(s, &err), -EINVAL);
	assert_non_null(strstr(err.text, "vCPU 1: KVM does not tell its local APIC"));
	cs_stream_free(s);
}

/* A host without XSAVE. */
static void test_fpu(void **state)
{
	struct cs_stream *s = cs_stream_create();
	struct cs_err err = { 0 };

	host.kvm.xsave_bytes = 0;
	cs_vcpu_state(&host.vcpu, s);
	assert_int_equal(cs_stream_end(s, &err), -ENOTTY); /* it asked for KVM_GET_FPU */
	assert_non_null(strstr(err.text, "vector registers"));
	cs_stream_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reset_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_cpu, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_clock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fixed_tsc, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_kvm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_saving_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fpu, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
