/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* This host's KVM: opened and probed once, then shared by every machine made from it (also across
 * fork: /dev/kvm may be inherited, VM descriptors may not). Only vmm/kvm*.c, vcpu*.c and irq.c
 * include linux/kvm.h. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/own.h"

struct cs_host_kvm;

/* What doctor says of it. */
struct cs_host_kvm_info {
	bool standard;     /* a user SYSCALL enters the kernel as on hardware (vmm/quirks.h); false:
			      kvm_pvm's way */
	bool quirks_known; /* the probe got an answer */
	unsigned max_vcpus;
	bool nested_paging; /* two-dimensional paging (EPT, NPT), as far as can be told; false:
			       shadow paging */
	char module[32];    /* "kvm_intel", "kvm_amd", "kvm_pvm", "" unknown */
};

/* (path): NULL for /dev/kvm. -ENOENT, -EACCES, -EPROTO (API not 12), each with words and the way
 * out. Reads the CPU description (0.4 to 3 ms on a host that is a machine itself) and runs the
 * SYSCALL probe (a raw guest of a few instructions, 1 to 3 ms); of /dev/kvm by NULL only once after
 * each load of its module, as root: both are kept under /run/clearstore. */
int cs_host_kvm_open(const char *path, struct cs_host_kvm **ret, struct cs_err *err);
void cs_host_kvm_info(const struct cs_host_kvm *kvm, struct cs_host_kvm_info *ret);

struct cs_host_kvm *cs_host_kvm_free(struct cs_host_kvm *kvm);
CS_DEFINE_AUTO(cs_host_kvm);
