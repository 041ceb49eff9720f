/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VM descriptor and what hangs on it: memory slots, interrupt controller, interrupt lines,
 * notifications. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "vmm/kvm.h"
#include "vmm/mem.h"
#include "vmm/stream.h"

/* Lines 0 to 4 are the timer's, the keyboard's, the cascade's and the serial ports'. */
#define CS_IRQ_FIRST 5u
#define CS_IRQ_LAST  23u

/* Make a VM with the slots of (mem), then its interrupt controller: in this order, since a slot
 * made after the irqchip takes milliseconds on some hosts. SHARED segments become read-only slots.
 * *ret_fd is the caller's. */
int cs_vm_create(const struct cs_host_kvm *kvm, const struct cs_mem *mem, int *ret_fd,
		 struct cs_err *err);

/* Bind eventfd (fd) to interrupt line (line), edge-triggered: writing it interrupts, in the kernel.
 */
int cs_vm_bind_irq(int vm_fd, unsigned line, int fd);

/* Bind eventfd (fd) to a 4-byte write of (value) at (gpa): the write costs no exit to us. */
int cs_vm_bind_write(int vm_fd, uint64_t gpa, uint32_t value, int fd);

/* Save or load the interrupt controllers, the timer and the guest's clock. Load after the vCPUs,
 * whose local APICs may be told of what waits, and before any device interrupts. The clock goes on
 * from where it was saved. */
void cs_vm_state(int vm_fd, struct cs_stream *stream);

/* What kvmclock shows now, in ns; the guest's clocks are made of it. 0: KVM does not tell. */
uint64_t cs_vm_clock(int vm_fd);

/* The ioctls a running machine still needs, also to be saved; for the sandbox. */
const unsigned long *cs_vm_run_ioctls(size_t *ret_n);

/* Those that a machine is restored by, besides. */
const unsigned long *cs_vm_restore_ioctls(size_t *ret_n);
