/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/vcpu-private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "store/base/own.h"

#define LEAF1_ECX_TSC_DEADLINE (1u << 24)

/* Leaves whose values depend on which CPU asks (Intel SDM, CPUID). */
static void number_leaf(const struct cs_vcpu *vcpu, struct kvm_cpuid_entry2 *leaf)
{
	switch (leaf->function) {
	case 0x1:
		leaf->ebx = (leaf->ebx & 0x00ffffff) | vcpu->id << 24;
		if (vcpu->kvm->tsc_deadline)
			leaf->ecx |= LEAF1_ECX_TSC_DEADLINE;
		break;
	case 0xb:
	case 0x1f:
		leaf->edx = vcpu->id;
		break;
	case 0x8000001e:
		leaf->eax = vcpu->id;
		break;
	}
}

int cs_vcpu_set_cpuid(const struct cs_vcpu *vcpu, struct cs_err *err)
{
	const struct kvm_cpuid2 *host = vcpu->kvm->cpuid;
	const size_t bytes = sizeof(*host) + host->nent * sizeof(host->entries[0]);
	cs_auto(cs_mem_freep) struct kvm_cpuid2 *own = malloc(bytes);

	if (!own)
		return cs_fail_errno(err, ENOMEM, "vCPU %u", vcpu->id);
	memcpy(own, host, bytes);
	for (unsigned i = 0; i < own->nent; i++)
		number_leaf(vcpu, &own->entries[i]);
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, own) < 0)
		return cs_fail_errno(err, errno, "vCPU %u: KVM refuses its CPU description",
				     vcpu->id);
	return 0;
}

int cs_vcpu_boot(struct cs_vcpu *vcpu, const struct cs_boot_entry *entry, struct cs_err *err)
{
	const struct kvm_segment code = {
		.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
	};
	const struct kvm_segment data = {
		.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
	};
	struct kvm_regs regs = { .rip = entry->rip, .rsi = entry->rsi, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return cs_fail_errno(err, errno, "vCPU %u: cannot read its registers", vcpu->id);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.gdt = (struct kvm_dtable){ .base = entry->gdt, .limit = entry->gdt_limit };
	sregs.idt = (struct kvm_dtable){ .limit = 0 };
	sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	sregs.cr3 = entry->cr3;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LME LMA */
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return cs_fail_errno(err, errno, "vCPU %u: KVM refuses its first registers",
				     vcpu->id);
	return 0;
}
