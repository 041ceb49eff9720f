/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/quirks.h"

#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vcpu-private.h"

#define OPCODE_INT3       0xcc
#define OPCODE_FWAIT      0x9b
#define VECTOR_BREAKPOINT 3

const char *cs_quirks_cmdline(const struct cs_host_kvm_info *host)
{
	if (host->standard)
		return "";
	/* POPCNT, CMPXCHG16B, XSAVE, CLAC and STAC, FNCLEX are not emulated in kernel mode: the
	 * kernel must not use them. Masking their bits in CPUID was not enough, the guest still saw
	 * some. The TSC is the host's, neither scaled nor moved: a guest that goes on from a saved
	 * state would find it far ahead, or after a restart of the host far behind; so time is told
	 * by KVM's clock, which goes on from where it was. clearstore.syscall_fault switches the
	 * kernel's SYSCALL patch on (vmm/guest/kernel). no-kvmapf: being told of a page that is on
	 * its way costs more than the page. percpu_alloc: by default 2 MiB are cleared for what the
	 * CPUs have of their own, and what is not needed is freed: half a second. */
	return " clearstore.syscall_fault clearstore.tick_stretch=10 clearstore.lean_boot "
	       "percpu_alloc=page no-kvmapf clocksource=kvm-clock noxsave "
	       "clearcpuid=popcnt,cx16,smap,smep,umip,fsgsbase,pcid,invpcid,erms,fsrm,rdrand,"
	       "rdseed";
}

bool cs_quirks_stock_kernel_works(const struct cs_host_kvm_info *host)
{
	return host->standard;
}

static bool advance(struct cs_vcpu *vcpu, bool breakpoint)
{
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	if (ioctl(vcpu->fd, KVM_GET_REGS, &regs) < 0)
		return false;
	regs.rip++;
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return false;
	if (!breakpoint)
		return true;
	/* After KVM_SET_REGS, which clears pending exceptions. */
	if (ioctl(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return false;
	events.exception.injected = 1;
	events.exception.nr = VECTOR_BREAKPOINT;
	events.exception.has_error_code = 0;
	return ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) == 0;
}

bool cs_quirks_complete(struct cs_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;

	if (vcpu->kvm->info.standard || run->exit_reason != KVM_EXIT_INTERNAL_ERROR ||
	    run->emulation_failure.suberror != KVM_INTERNAL_ERROR_EMULATION ||
	    run->emulation_failure.ndata < 3 ||
	    !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) ||
	    !run->emulation_failure.insn_size)
		return false;
	switch (run->emulation_failure.insn_bytes[0]) {
	case OPCODE_INT3: /* a self-test at boot, and while the kernel patches its own text */
		return advance(vcpu, true);
	case OPCODE_FWAIT: /* at every exec and exit */
		return advance(vcpu, false);
	default:
		return false;
	}
}
