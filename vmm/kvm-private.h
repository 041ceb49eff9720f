/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files that own linux/kvm.h share: kvm*.c, vcpu*.c, irq.c, quirks.c. */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "vmm/kvm.h"

struct cs_host_kvm {
	int fd;
	size_t run_bytes;         /* of a vCPU's struct kvm_run mapping */
	struct kvm_cpuid2 *cpuid; /* KVM_GET_SUPPORTED_CPUID, kept for every vCPU */
	bool tsc_deadline;        /* the local APIC's TSC deadline timer */
	struct cs_host_kvm_info info;
};

/* The SYSCALL probe (kvm-probe.c): a raw guest goes to ring 3 with SYSRET and makes a SYSCALL.
 * *ret_standard: the handler ran in ring 0, as on hardware; false: the entry point was fetched as
 * user and faulted. -EPROTO: the guest ended in neither way. */
int cs_kvm_probe_syscall(const struct cs_host_kvm *kvm, bool *ret_standard);
