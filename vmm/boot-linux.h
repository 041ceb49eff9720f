/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Put a Linux kernel into guest memory by the 64-bit boot protocol
 * (Documentation/arch/x86/boot.rst): paging on, long mode, no firmware, no decompression in the
 * guest. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "vmm/mem.h"

#define CS_BOOT_FILES 2

/* A stretch of guest memory, in bytes. */
struct cs_boot_span {
	uint64_t gpa, bytes;
};

/* Where the first vCPU starts, and what it finds there. */
struct cs_boot_entry {
	uint64_t rip; /* ELF entry: startup_64 */
	uint64_t rsi; /* gpa of struct boot_params */
	uint64_t cr3; /* gpa of an identity map of the first 4 GiB in 2 MiB pages */
	uint64_t gdt; /* gpa; CS 0x10, data 0x18 */
	uint16_t gdt_limit;
	/* What may be mapped from a file, ascending: the kernel, the initrd (0 bytes: none). Pages
	 * there that nobody has touched are not zeroes. */
	struct cs_boot_span file[CS_BOOT_FILES];
};

#define CS_CMDLINE_MAX 2048u /* COMMAND_LINE_SIZE of x86, its NUL included */

/* Load boot->kernel_fd, boot->initrd_fd and (cmdline), write boot_params, a seed for the kernel's
 * random numbers, page tables and GDT.
 * Whole pages of the kernel are mapped privately from its file over the guest's RAM, not read: what
 * the guest does not patch stays one copy for all guests of a template. -ENOEXEC: not an x86-64 ELF
 * kernel; -E2BIG: command line too long; -EFBIG: does not fit RAM. */
int cs_boot_linux_load(const struct cs_mem *mem, const struct cs_boot *boot, const char *cmdline,
		       struct cs_boot_entry *ret, struct cs_err *err);
