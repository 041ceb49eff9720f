/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The values that travel between store, cow, ksm and vmm: plain data, no owners; and the guest's
 * address plan. Units: bytes; gpa: guest physical address. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"

#define CS_PAGE_BYTES UINT64_C(4096)

enum cs_media {
	CS_MEDIA_FILE,   /* page cache: any file system, Btrfs included       */
	CS_MEDIA_FSDAX,  /* a file on a DAX mount: CPU loads reach the medium */
	CS_MEDIA_DEVDAX, /* a /dev/dax device: shared mappings only           */
};

/* A read-only stretch of a template part, not yet mapped. The descriptor stays the template's. */
struct cs_view {
	int fd;
	uint64_t offset, bytes;
	enum cs_media media;
};

enum cs_backing {
	CS_BACKING_ANON,   /* starts as zeroes;                        KSM may merge     */
	CS_BACKING_COW,    /* private copy of a template's page cache; KSM may merge     */
	CS_BACKING_DAXCOW, /* private copy of a template on fsdax;     KSM never merges  */
	CS_BACKING_SHARED, /* the template itself, read-only;          one copy already  */
};

/* A mapped stretch of guest memory. */
struct cs_seg {
	uint64_t gpa, bytes;
	void *host;
	enum cs_backing backing;
};

#define CS_RAM_SEGS 8

/* A page that a guest wrote, and what is in it, in the upper 31 bits of (hash): pages that are
 * alike have the same, and nearly all that have the same are alike. Pages count as in a MEMORY
 * part: through all segments but the SHARED one. */
struct cs_sketch_page {
	uint32_t page, hash;
};
#define CS_SKETCH_MERGED 1U /* in (hash): others have the same page mapped */

struct cs_page_range {
	uint32_t first, pages;
};

struct cs_ram {
	struct cs_seg seg[CS_RAM_SEGS]; /* ascending by gpa, no overlap; the last may be SHARED (the
					   root) */
	size_t n;
};

struct cs_disk {
	int fd;
	int under_fd; /* on the file system under the one of (fd), when that is a sparse image; -1
		       */
	uint64_t bytes;
	bool read_only;
};

/* Booted from a kernel, or (with state_fd) resumed: never both. */
struct cs_boot {
	int kernel_fd; /* an uncompressed ELF vmlinux */
	int initrd_fd; /* -1: none */
	int state_fd;  /* -1: boot the kernel */
	int delta_fd;  /* resumed: what of the memory differs from what it is mapped from
			  (vmm/snapshot-delta.h); -1: nothing */
	const char *
		cmdline; /* the template's own part of it; the machine adds what its devices need */
	bool stock_kernel; /* a distribution's kernel: without the clearstore patches */
};

/* ---- the guest's address plan --------------------------------------------------------------
 *
 *   0 .. 3 GiB         RAM, its first 3 GiB
 *   3 GiB .. 4 GiB     devices: virtio-mmio windows at CS_MMIO_GPA, IOAPIC, local APIC
 *   4 GiB ..           the rest of RAM
 *   root (virtio-pmem) just above RAM, on a 128 MiB boundary (one sparsemem section,
 *                      mm/memremap.c wants sections not shared with RAM), below the device gap
 *                      when it fits there and above all RAM and 4 GiB otherwise
 */
#define CS_GAP_GPA     (UINT64_C(3) << 30)
#define CS_GAP_END_GPA (UINT64_C(4) << 30)
#define CS_MMIO_GPA    UINT64_C(0xd0000000)
#define CS_MMIO_BYTES  UINT64_C(0x1000)
#define CS_ROOT_ALIGN  (UINT64_C(128) << 20)
/* virtio-pmem: start and size in sub-sections of 2 MiB (mm/memremap.c memremap_compat_align). */
#define CS_ROOT_GRAIN (UINT64_C(2) << 20)

#define CS_RAM_MIN (UINT64_C(24) << 20)

/* Split (ram_bytes) into RAM segments around the device gap and place a root of (root_bytes) (0:
 * none) behind it: fills gpa and bytes of ret->seg[], host NULL, backing ANON, the root last with
 * backing SHARED and its size rounded up to CS_ROOT_GRAIN. (ram_bytes): a multiple of 4 KiB, at
 * least CS_RAM_MIN. -EINVAL with words when it is not, -ERANGE when it leaves the 44 bits every
 * host can address. */
int cs_ram_plan(uint64_t ram_bytes, uint64_t root_bytes, struct cs_ram *ret, struct cs_err *err);

/* Visit what pages (from) to (to), the last not included, counted as in a MEMORY part, are of:
 * (bytes) at (offset) of (seg), ascending; what is behind the last segment is nothing. (fn) returns
 * 0 to go on, anything else ends the walk and is returned. */
typedef int (*cs_ram_fn)(const struct cs_seg *seg, uint64_t offset, uint64_t bytes, void *arg);
int cs_ram_each(const struct cs_ram *ram, uint64_t from, uint64_t to, cs_ram_fn fn, void *arg);
