/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A vCPU over a KVM that is played from a script (ioctl is wrapped at link time): exits, quirks,
 * kicks, ends. */
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm/irq.h"
#include "vmm/quirks.h"
#include "vmm/vcpu-private.h"

#define RUN_BYTES 8192
#define STEPS_MAX 8

/* The fake: KVM_RUN fills the run page from the next step of the script; behind its end it waits
 * for a kick. */
static struct fake {
	struct kvm_run *run;
	struct kvm_run script[STEPS_MAX];
	unsigned steps, next;
	struct kvm_regs regs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	int cpuid_apic_id;
	uint64_t asked_gpa, asked_bytes; /* of the first of a range that is mapped in advance */
	unsigned pages;                  /* that were, two at a time */
	int no_prefault;                 /* errno */
	struct kvm_xsave xsave;
	bool bad_xsave; /* does not take what does not begin with 0 */
} fake;

int __real_ioctl(int fd, unsigned long request, void *arg);
int __wrap_ioctl(int fd, unsigned long request, void *arg);

static int fake_run(void)
{
	sigset_t set;
	int got;

	if (fake.next < fake.steps) {
		memcpy(fake.run, &fake.script[fake.next++], sizeof(*fake.run));
		return 0;
	}
	sigemptyset(&set);
	sigaddset(&set, CS_VCPU_SIGNAL);
	sigwait(&set, &got);
	raise(got); /* KVM leaves the signal pending */
	errno = EINTR;
	return -1;
}

int __wrap_ioctl(int fd, unsigned long request, void *arg)
{
	/* KVM_PRE_FAULT_MEMORY, which these headers lack: gpa, size, flags, padding. */
	if (request == _IOWR(KVMIO, 0xd5, uint64_t[8])) {
		uint64_t *range = arg;

		errno = fake.no_prefault;
		if (fake.no_prefault)
			return -1;
		if (!fake.pages) {
			fake.asked_gpa = range[0];
			fake.asked_bytes = range[1];
		}
		for (int i = 0; i < 2 && range[1]; i++, fake.pages++) {
			range[0] += 4096;
			range[1] -= 4096;
		}
		errno = EINTR; /* a signal: the rest is left */
		return range[1] && fake.pages > 2 ? -1 : 0;
	}
	switch (request) {
	case KVM_CREATE_VCPU:
		fd = memfd_create("vcpu", MFD_CLOEXEC);
		if (ftruncate(fd, RUN_BYTES) < 0)
			return -1;
		return fd;
	case KVM_SET_CPUID2:
		fake.cpuid_apic_id = (int)(((struct kvm_cpuid2 *)arg)->entries[0].ebx >> 24);
		return 0;
	case KVM_SET_SIGNAL_MASK:
		return ((struct kvm_signal_mask *)arg)->len == 8 ? 0 : -1;
	case KVM_RUN:
		return fake_run();
	case KVM_GET_REGS:
		memcpy(arg, &fake.regs, sizeof(fake.regs));
		return 0;
	case KVM_SET_REGS:
		memcpy(&fake.regs, arg, sizeof(fake.regs));
		return 0;
	case KVM_GET_VCPU_EVENTS:
		memcpy(arg, &fake.events, sizeof(fake.events));
		return 0;
	case KVM_SET_VCPU_EVENTS:
		memcpy(&fake.events, arg, sizeof(fake.events));
		return 0;
	case KVM_GET_XSAVE:
		memcpy(arg, &fake.xsave, sizeof(fake.xsave));
		return 0;
	case KVM_SET_XSAVE:
		errno = EINVAL;
		if (fake.bad_xsave && *(uint8_t *)arg)
			return -1;
		memcpy(&fake.xsave, arg, sizeof(fake.xsave));
		return 0;
	case KVM_GET_MP_STATE:
		memcpy(arg, &fake.mp, sizeof(fake.mp));
		return 0;
	default:
		return __real_ioctl(fd, request, arg);
	}
}

/* The owner: notes what it was asked. */
struct seen {
	unsigned ports, memories, first, kicked;
	uint64_t port_bytes, memory_gpa;
	bool halted, ended;
	enum cs_vcpu_end why;
	uint64_t copied_gpa;
	size_t copied;
};

/* Guest memory from 0x10000 on. */
static uint8_t ram[8192];

static void on_port(void *arg, uint16_t port, void *data, unsigned bytes, bool write)
{
	struct seen *seen = arg;

	seen->ports++;
	seen->port_bytes = seen->port_bytes << 8 | *(uint8_t *)data;
}

static void on_memory(void *arg, uint64_t gpa, void *data, unsigned bytes, bool write)
{
	struct seen *seen = arg;

	seen->memories++;
	seen->memory_gpa = gpa;
	if (!write)
		memset(data, 0xab, bytes);
}

static bool on_copy(void *arg, uint64_t gpa, void *buf, size_t bytes, bool write)
{
	struct seen *seen = arg;

	if (gpa < 0x10000 || gpa + bytes > 0x10000 + sizeof(ram))
		return false;
	seen->copied_gpa = gpa;
	seen->copied = bytes;
	if (write)
		memcpy(ram + gpa - 0x10000, buf, bytes);
	else
		memcpy(buf, ram + gpa - 0x10000, bytes);
	return true;
}

static void on_first(void *arg)
{
	((struct seen *)arg)->first++;
}

static bool on_kicked(void *arg, bool halted)
{
	struct seen *seen = arg;

	seen->kicked++;
	seen->halted = halted;
	return false;
}

static void on_ended(void *arg, enum cs_vcpu_end why)
{
	((struct seen *)arg)->ended = true;
	((struct seen *)arg)->why = why;
}

static struct kvm_run exit_of(uint32_t reason)
{
	return (struct kvm_run){ .exit_reason = reason };
}

static struct kvm_run emulation_failure(uint8_t opcode)
{
	struct kvm_run run = exit_of(KVM_EXIT_INTERNAL_ERROR);

	run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run.emulation_failure.ndata = 4;
	run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	run.emulation_failure.insn_size = 15;
	run.emulation_failure.insn_bytes[0] = opcode;
	return run;
}

/* Run the script on a vCPU of a host that is (standard) or not; kick it when it is through. */
static struct seen play(bool standard, const struct kvm_run *script, unsigned steps)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 leaf;
	} cpuid = { .head = { .nent = 1 }, .leaf = { .function = 1 } };
	const struct cs_host_kvm kvm = { .fd = -1,
					 .run_bytes = RUN_BYTES,
					 .cpuid = &cpuid.head,
					 .info = { .standard = standard } };
	struct seen seen = { 0 };
	const struct cs_vcpu_owner owner = { .port = on_port,
					     .memory = on_memory,
					     .copy = on_copy,
					     .first_run = on_first,
					     .kicked = on_kicked,
					     .ended = on_ended,
					     .arg = &seen };
	struct cs_vcpu *vcpu = NULL;
	struct cs_err err = { 0 };

	if (steps)
		memcpy(fake.script, script, steps * sizeof(*script));
	fake.steps = steps;
	fake.next = 0;
	assert_int_equal(cs_vcpu_create(&kvm, -1, 7, &owner, &vcpu, &err), 0);
	fake.run = vcpu->run;
	assert_int_equal(cs_vcpu_set_cpuid(vcpu, &err), 0);
	assert_int_equal(fake.cpuid_apic_id, 7);
	assert_int_equal(cs_vcpu_start(vcpu, &err), 0);
	cs_vcpu_kick(vcpu);
	cs_vcpu_join(vcpu);
	assert_true(seen.ended);
	assert_int_equal(seen.first, 1);
	if (seen.why == CS_VCPU_FAILED)
		assert_int_not_equal(strlen(cs_vcpu_failure(vcpu)), 0);
	cs_vcpu_free(vcpu);
	return seen;
}

static int setup(void **state)
{
	sigset_t set;

	memset(&fake, 0, sizeof(fake));
	fake.regs.rip = 0x1000;
	fake.regs.rflags = 0x202;
	sigemptyset(&set);
	sigaddset(&set, CS_VCPU_SIGNAL);
	return pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void test_accesses(void **state)
{
	struct kvm_run script[2] = { exit_of(KVM_EXIT_IO), exit_of(KVM_EXIT_MMIO) };
	struct seen seen;

	/* OUTSB of three bytes, which lie behind the structure's head. */
	script[0].io.direction = KVM_EXIT_IO_OUT;
	script[0].io.size = 1;
	script[0].io.count = 3;
	script[0].io.data_offset = offsetof(struct kvm_run, s.padding);
	memcpy(script[0].s.padding, "abc", 3);
	script[1].mmio.phys_addr = 0xd0000040;
	script[1].mmio.len = 4;
	seen = play(true, script, 2);
	assert_int_equal(seen.ports, 3);
	assert_int_equal(seen.port_bytes, 'a' << 16 | 'b' << 8 | 'c');
	assert_int_equal(seen.memories, 1);
	assert_int_equal(seen.memory_gpa, 0xd0000040);
	assert_int_equal(seen.why, CS_VCPU_ENDED);
	assert_int_equal(seen.kicked, 1);
}

static void test_ends(void **state)
{
	const struct kvm_run shutdown = exit_of(KVM_EXIT_SHUTDOWN), odd = exit_of(KVM_EXIT_HYPERV),
			     entry = exit_of(KVM_EXIT_FAIL_ENTRY);

	assert_int_equal(play(true, &shutdown, 1).why, CS_VCPU_RESET);
	assert_int_equal(play(true, &odd, 1).why, CS_VCPU_FAILED);
	assert_int_equal(play(true, &entry, 1).why, CS_VCPU_FAILED);
}

static void test_quirks(void **state)
{
	const struct kvm_run fwait = emulation_failure(0x9b), int3 = emulation_failure(0xcc),
			     popcnt = emulation_failure(0xf3);
	struct kvm_run empty = emulation_failure(0xcc);

	assert_int_equal(play(false, &fwait, 1).why, CS_VCPU_ENDED);
	assert_int_equal(fake.regs.rip, 0x1001);
	assert_int_equal(fake.events.exception.injected, 0);

	assert_int_equal(play(false, &int3, 1).why, CS_VCPU_ENDED);
	assert_int_equal(fake.regs.rip, 0x1002);
	assert_int_equal(fake.events.exception.injected, 1);
	assert_int_equal(fake.events.exception.nr, 3);

	assert_int_equal(play(false, &popcnt, 1).why, CS_VCPU_FAILED);
	empty.emulation_failure.insn_size = 0;
	assert_int_equal(play(false, &empty, 1).why, CS_VCPU_FAILED);
	empty = emulation_failure(0xcc);
	empty.emulation_failure.ndata = 1;
	assert_int_equal(play(false, &empty, 1).why, CS_VCPU_FAILED);
	/* On a standard host nothing is completed, whatever it looks like. */
	assert_int_equal(play(true, &fwait, 1).why, CS_VCPU_FAILED);
}

static struct kvm_run out_of(uint16_t port, uint32_t value)
{
	struct kvm_run run = exit_of(KVM_EXIT_IO);

	run.io.direction = KVM_EXIT_IO_OUT;
	run.io.port = port;
	run.io.size = 4;
	run.io.count = 1;
	run.io.data_offset = offsetof(struct kvm_run, s.padding);
	memcpy(run.s.padding, &value, sizeof(value));
	return run;
}

/* The kernel has its registers saved and restored, by ports that say how large its area is. */
static void test_xstate(void **state)
{
	const uint16_t bytes = 2432, save = 0xc000 + bytes / 8, restore = save + 512;
	const struct kvm_run saved = out_of(save, 0x10040 / 64), least = out_of(0xc000 + 71, 0),
			     restored = out_of(restore, 0x10040 / 64),
			     away = out_of(restore, UINT32_MAX), past = out_of(0xc400, 0);
	struct kvm_run in = saved;
	struct seen seen;

	memset(&fake.xsave, 0x5a, sizeof(fake.xsave));
	memset(ram, 0x11, sizeof(ram));
	seen = play(false, &saved, 1);
	assert_int_equal(seen.why, CS_VCPU_ENDED);
	assert_int_equal(seen.ports, 0);
	assert_int_equal(seen.copied_gpa, 0x10040);
	assert_int_equal(seen.copied, bytes);
	assert_int_equal(ram[0x3f], 0x11);
	assert_int_equal(ram[0x40], 0x5a);
	assert_int_equal(ram[0x40 + bytes - 1], 0x5a);
	assert_int_equal(ram[0x40 + bytes], 0x11);

	memset(ram + 0x40, 0x77, bytes);
	seen = play(false, &restored, 1);
	assert_int_equal(seen.copied, bytes);
	assert_int_equal(((uint8_t *)&fake.xsave)[bytes - 1], 0x77);
	assert_int_equal(((uint8_t *)&fake.xsave)[bytes], 0); /* not what lies behind the area */

	/* What KVM does not take, or is not there, is a new process's registers. */
	fake.bad_xsave = true;
	play(false, &restored, 1);
	assert_int_equal(((uint8_t *)&fake.xsave)[bytes - 1], 0);
	memset(&fake.xsave, 0x5a, sizeof(fake.xsave));
	seen = play(false, &away, 1);
	assert_int_equal(seen.copied, 0);
	assert_int_equal(seen.why, CS_VCPU_ENDED);
	assert_int_equal(((uint8_t *)&fake.xsave)[0], 0);

	/* Not ours: too small for a header, behind the last, an IN, a standard host. */
	assert_int_equal(play(false, &least, 1).ports, 1);
	assert_int_equal(play(false, &past, 1).ports, 1);
	in.io.direction = KVM_EXIT_IO_IN;
	assert_int_equal(play(false, &in, 1).ports, 1);
	seen = play(true, &saved, 1);
	assert_int_equal(seen.ports, 1);
	assert_int_equal(seen.copied, 0);
}

static void test_halted(void **state)
{
	fake.mp.mp_state = KVM_MP_STATE_HALTED;
	assert_false(play(true, NULL, 0).halted); /* interrupts on: idle */
	fake.regs.rflags = 2;
	assert_true(play(true, NULL, 0).halted);
	fake.mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_false(play(true, NULL, 0).halted);
	fake.mp.mp_state = KVM_MP_STATE_UNINITIALIZED; /* a CPU that never came up */
	assert_true(play(true, NULL, 0).halted);
}

static void test_prefault(void **state)
{
	struct cs_vcpu vcpu = { .fd = -1 };

	assert_int_equal(cs_vcpu_prefault(&vcpu, 0x100000, 7 * 4096), 0);
	assert_int_equal(fake.asked_gpa, 0x100000);
	assert_int_equal(fake.asked_bytes, 7 * 4096);
	assert_int_equal(fake.pages, 7);
	fake.no_prefault = ENOTTY; /* an older kernel */
	assert_int_equal(cs_vcpu_prefault(&vcpu, 0, 4096), -EOPNOTSUPP);
	fake.no_prefault = EINVAL;
	assert_int_equal(cs_vcpu_prefault(&vcpu, 0, 4096), -EOPNOTSUPP);
	fake.no_prefault = EFAULT;
	assert_int_equal(cs_vcpu_prefault(&vcpu, 0, 4096), -EFAULT);
}

static void test_cmdline(void **state)
{
	const struct cs_host_kvm_info standard = { .standard = true }, odd = { .standard = false };

	assert_string_equal(cs_quirks_cmdline(&standard), "");
	assert_non_null(strstr(cs_quirks_cmdline(&odd), "clearcpuid="));
	assert_non_null(strstr(cs_quirks_cmdline(&odd), " clearstore.xstate_port=0xc000 "));
	assert_true(cs_quirks_stock_kernel_works(&standard));
	assert_false(cs_quirks_stock_kernel_works(&odd));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_accesses, setup),
		cmocka_unit_test_setup(test_ends, setup),
		cmocka_unit_test_setup(test_quirks, setup),
		cmocka_unit_test_setup(test_xstate, setup),
		cmocka_unit_test_setup(test_halted, setup),
		cmocka_unit_test_setup(test_prefault, setup),
		cmocka_unit_test_setup(test_cmdline, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
