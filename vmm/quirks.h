/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What some KVM hosts (kvm_pvm: no VT-x, no SVM) do not do, and how a machine goes round it;
 * nothing of it is active where the SYSCALL probe found a standard host. All of it is in quirks.c.
 */
#pragma once

#include <stdbool.h>

#include "vmm/kvm.h"
#include "vmm/vcpu.h"

/* What the kernel's command line must hold on this host; "" on a standard one. */
const char *cs_quirks_cmdline(const struct cs_host_kvm_info *host);

/* May a distribution's own kernel run here? It lacks the SYSCALL patch. */
bool cs_quirks_stock_kernel_works(const struct cs_host_kvm_info *host);

/* The guest's kernel writes the 32 bits at (data) to (port). True: it was asking for its registers
 * to be saved or restored, which is done; false: it is somebody else's port. An address that is not
 * RAM is saved to nowhere, and what KVM does not take as registers restores those of a new
 * process: a guest can so harm but itself. */
bool cs_quirks_out(const struct cs_vcpu *vcpu, uint16_t port, const void *data);

/* KVM gave up on an instruction in kernel mode. Complete it if it is one that we know; false: it is
 * not. */
bool cs_quirks_complete(struct cs_vcpu *vcpu);
