/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/vcpu-private.h"

#include <errno.h>
#include <sys/ioctl.h>

int cs_vcpu_prefault(const struct cs_vcpu *vcpu, uint64_t gpa, uint64_t bytes)
{
	struct cs_kvm_pre_fault range = { .gpa = gpa, .bytes = bytes };

	while (range.bytes) {
		if (ioctl(vcpu->fd, CS_KVM_PRE_FAULT, &range) == 0 || errno == EINTR ||
		    errno == EAGAIN)
			continue;
		/* ENOTTY, EINVAL: an older kernel; EOPNOTSUPP: shadow page tables */
		return errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
	}
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
