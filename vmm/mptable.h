/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The MultiProcessor table: how a guest without ACPI learns of its CPUs, IOAPIC and interrupt
 * lines. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "vmm/mem.h"

#define CS_MPTABLE_GPA                                                                             \
	UINT64_C(0xf0000) /* Linux looks here (arch/x86/kernel/mpparse.c, mpparse_find_mptable) */
#define CS_MPTABLE_VCPUS_MAX 254u /* xAPIC ids; 255 is broadcast */

/* Write floating pointer and table for (vcpus) CPUs (MP spec 1.4, 4). All lines are edge-triggered
 * ISA lines, 0 to 23 straight through. */
int cs_mptable_write(const struct cs_mem *mem, unsigned vcpus, struct cs_err *err);
