/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of KVM a machine needs when it runs: lists for the sandbox, which is made before there is
 * one. */
#include "vmm/irq.h"
#include "vmm/kvm-private.h"

const unsigned long *cs_vm_run_ioctls(size_t *ret_n)
{
	static const unsigned long list[] = {
		KVM_RUN,
		KVM_SET_SIGNAL_MASK,
		/* quirks.c, and whether a vCPU is halted */
		KVM_GET_REGS,
		KVM_SET_REGS,
		KVM_GET_VCPU_EVENTS,
		KVM_SET_VCPU_EVENTS,
		KVM_GET_MP_STATE,
		KVM_SET_XSAVE,
		/* a save: vcpu-state.c, cs_vm_state() */
		KVM_GET_SREGS,
		KVM_GET_XSAVE,
		KVM_GET_XSAVE2,
		KVM_GET_FPU,
		KVM_GET_XCRS,
		KVM_GET_DEBUGREGS,
		KVM_GET_MSRS,
		KVM_GET_LAPIC,
		KVM_GET_CPUID2,
		KVM_GET_TSC_KHZ,
		KVM_GET_IRQCHIP,
		KVM_GET_PIT2,
		KVM_GET_CLOCK,
	};

	*ret_n = sizeof(list) / sizeof(list[0]);
	return list;
}

const unsigned long *cs_vm_restore_ioctls(size_t *ret_n)
{
	static const unsigned long list[] = {
		/* vcpu-state.c */
		KVM_SET_CPUID2,
		KVM_SET_TSC_KHZ,
		KVM_SET_SREGS,
		KVM_SET_XCRS,
		KVM_SET_FPU,
		KVM_SET_DEBUGREGS,
		KVM_SET_LAPIC,
		KVM_SET_MSRS,
		KVM_SET_MP_STATE,
		/* cs_vm_state() */
		KVM_SET_IRQCHIP,
		KVM_CREATE_PIT2,
		KVM_SET_PIT2,
		KVM_SET_CLOCK,
		/* what a spare did not have mapped before it knew what it is for */
		CS_KVM_PRE_FAULT,
	};

	*ret_n = sizeof(list) / sizeof(list[0]);
	return list;
}
