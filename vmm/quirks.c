/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/quirks.h"

#include <string.h>
#include <sys/ioctl.h>

#include "vmm/vcpu-private.h"

#define OPCODE_INT3       0xcc
#define OPCODE_FWAIT      0x9b
#define VECTOR_BREAKPOINT 3

/* Ours and the kernel's (patch 0018): to save, and to restore; each is as many ports as there are
 * sizes of an area, in units of 8 bytes. The least has a header behind what FXSAVE knows (SDM
 * volume 1, section 13.4). */
#define XSTATE_PORT      0xc000u /* on the command line, too */
#define XSTATE_SIZES     512u
#define XSTATE_BYTES_MIN 576u

const char *cs_quirks_cmdline(const struct cs_host_kvm_info *host)
{
	if (host->standard)
		return "";
	/* POPCNT, CMPXCHG16B, XSAVE, CLAC and STAC, FNCLEX are not emulated in kernel mode: the
	 * kernel must not use them. Masking their bits in CPUID was not enough, the guest still saw
	 * some. So do its processes, which run natively and use AVX: with xstate_port we do the
	 * work of XSAVE for the kernel (a kernel from before that patch obeys noxsave, and mixes up
	 * its processes' AVX registers). The TSC is the host's, neither scaled nor moved: a guest
	 * that goes on from a saved state would find it far ahead, or after a restart of the host
	 * far behind; so time is told by KVM's clock, which goes on from where it was.
	 * clearstore.syscall_fault switches the kernel's SYSCALL patch on (vmm/guest/kernel).
	 * no-kvmapf: being told of a page that is on its way costs more than the page.
	 * percpu_alloc: by default 2 MiB are cleared for what the CPUs have of their own, and what
	 * is not needed is freed: half a second. */
	return " clearstore.syscall_fault clearstore.xstate_port=0xc000 "
	       "clearstore.tick_stretch=10 clearstore.lean_boot percpu_alloc=page no-kvmapf "
	       "clocksource=kvm-clock noxsave "
	       "clearcpuid=popcnt,cx16,smap,smep,umip,fsgsbase,pcid,invpcid,erms,fsrm,rdrand,"
	       "rdseed,xsaveopt,xsavec,xgetbv1,xsaves";
}

bool cs_quirks_stock_kernel_works(const struct cs_host_kvm_info *host)
{
	return host->standard;
}

bool cs_quirks_out(const struct cs_vcpu *vcpu, uint16_t port, const void *data)
{
	struct kvm_xsave area = { 0 };
	uint32_t units, bytes;
	uint64_t gpa;

	bytes = (port - XSTATE_PORT) % XSTATE_SIZES * 8;
	if (vcpu->kvm->info.standard || port < XSTATE_PORT ||
	    port >= XSTATE_PORT + 2 * XSTATE_SIZES || bytes < XSTATE_BYTES_MIN)
		return false;
	memcpy(&units, data, sizeof(units));
	gpa = (uint64_t)units * 64;
	/* KVM has what the CPU had when it left the guest. */
	if (port < XSTATE_PORT + XSTATE_SIZES) {
		if (ioctl(vcpu->fd, KVM_GET_XSAVE, &area) == 0)
			vcpu->owner.copy(vcpu->owner.arg, gpa, &area, bytes, true);
		return true;
	}
	if (vcpu->owner.copy(vcpu->owner.arg, gpa, &area, bytes, false) &&
	    ioctl(vcpu->fd, KVM_SET_XSAVE, &area) == 0)
		return true;
	memset(&area, 0, sizeof(area));
	ioctl(vcpu->fd, KVM_SET_XSAVE, &area);
	return true;
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
