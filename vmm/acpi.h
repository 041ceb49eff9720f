/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* ACPI tables: how a distribution's kernel learns of its CPUs, its IOAPIC and its virtio-mmio
 * windows. Debian's kernels take no windows from the command line
 * (CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES is off) and its cloud kernel reads no MP table
 * (CONFIG_X86_MPPARSE is off); our own kernel has no ACPI and does not look at these. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "vmm/mem.h"

/* All tables lie from here on, below the MP table, in what fill_e820() reserves. The first is the
 * RSDP: this is what boot_params.acpi_rsdp_addr takes. */
#define CS_ACPI_GPA         UINT64_C(0xe0000)
#define CS_ACPI_END_GPA     UINT64_C(0xf0000)
#define CS_ACPI_VCPUS_MAX   254u /* xAPIC ids; 255 is broadcast */
#define CS_ACPI_WINDOWS_MAX 19u  /* interrupt lines 5 to 23 */

struct cs_acpi_spec {
	unsigned vcpus;        /* their APIC ids: 0 and up */
	unsigned windows;      /* virtio-mmio windows, one behind the other */
	uint64_t window_gpa;   /* of the first */
	uint64_t window_bytes; /* of each */
	unsigned first_irq;    /* the first one's line of the IOAPIC, edge-triggered */
};

/* Write RSDP, XSDT, FADT (reduced hardware: no timer, ports or registers of ACPI's), MADT and DSDT
 * (ACPI 6.3, 5.2). With reduced hardware Linux looks for no PIT and no PIC: the guest needs
 * kvmclock and a TSC deadline timer. -EINVAL: (spec) asks for more than fits; -EFAULT: the guest's
 * RAM does not reach there. */
int cs_acpi_write(const struct cs_mem *mem, const struct cs_acpi_spec *spec, struct cs_err *err);
