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
	uint32_t cpu_features;     /* cs_host_cpu_features(), when it was opened */
	size_t run_bytes;          /* of a vCPU's struct kvm_run mapping */
	struct kvm_cpuid2 *cpuid;  /* KVM_GET_SUPPORTED_CPUID, kept for every vCPU */
	struct kvm_cpuid2 *shown;  /* what a vCPU that was given it shows: some hosts add to it */
	uint32_t tsc_khz;          /* at which a guest's TSC runs; 0: not known */
	bool tsc_fixed;            /* a guest's TSC is the host's: what is written to it is lost */
	bool tsc_deadline;         /* guests have a timer that needs no other to be measured by */
	bool tsc_control;          /* a guest's TSC may run at another rate than the host's */
	struct kvm_msr_list *msrs; /* KVM_GET_MSR_INDEX_LIST: what a saved vCPU consists of */
	uint32_t xsave_bytes;      /* of KVM_GET_XSAVE2; 0: no XSAVE, KVM_GET_FPU then */
	bool xcrs;
	struct cs_host_kvm_info info;
};

/* KVM_PRE_FAULT_MEMORY came with Linux 6.11 (Documentation/virt/kvm/api.rst, 4.143), Debian 12's
 * headers are older. */
struct cs_kvm_pre_fault {
	uint64_t gpa, bytes, flags, padding[5]; /* the first two: of what is left, on return */
};

#define CS_KVM_PRE_FAULT _IOWR(KVMIO, 0xd5, struct cs_kvm_pre_fault)

#define CS_CPUID_ENTRIES 256u /* room for so many in a table */

/* What only a vCPU tells (kvm-probe.c): kvm->shown and kvm->tsc_khz; and the SYSCALL probe: a raw
 * guest goes to ring 3 with SYSRET and makes a SYSCALL. kvm->info.standard: the handler ran in ring
 * 0, as on hardware; false: the entry point was fetched as user and faulted. -EPROTO: the guest
 * ended in neither way. */
int cs_kvm_probe(struct cs_host_kvm *kvm);

/* Checksum of what the CPU itself says that it can do: the same on every CPU of a host, another
 * where a host goes on on another machine. Some 40 us where CPUID exits to a host below. */
uint32_t cs_host_cpu_features(void);

/* What KVM of the same /dev/kvm and CPU features said earlier (kvm-cache.c): kvm->cpuid as KVM gave
 * it, and all that cs_kvm_probe() finds; false: nothing is known. And keep it. */
bool cs_kvm_recall(struct cs_host_kvm *kvm);
void cs_kvm_remember(const struct cs_host_kvm *kvm);
