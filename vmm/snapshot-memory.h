/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages of a machine's memory are its own, and writing them out. The file is the MEMORY part
 * of a template: the RAM segments but the SHARED one, one behind the other; a hole is zeroes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"
#include "vmm/boot-linux.h"

/* A run of pages, mapped at (host), that belongs to (offset) of the file. */
struct cs_stretch {
	const char *host;
	uint64_t offset, bytes;
	bool over; /* there may be something else in the file: zeroes must be put there too */
};

struct cs_picture {
	struct cs_stretch *stretch;
	size_t n, room;
	uint64_t file_bytes; /* of the whole file */
	bool over;           /* some of it was there before: the parent's memory */
};

/* The calling process's page table as a file, to be opened before the sandbox is entered: -errno.
 */
int cs_pagemap_open(void);

/* Find them, while the vCPUs stand still: of a segment with backing COW the pages that differ, or
 * may differ, from the file it is mapped from; of one with backing ANON all that were touched, and
 * (file), which may be NULL. Nothing is read of the memory itself. -errno; *ret is to be freed by
 * cs_picture_clear() in any case. */
int cs_picture_take(int pagemap_fd, const struct cs_ram *ram, const struct cs_boot_span *file,
		    struct cs_picture *ret);

/* As that, but every page that is mapped, the file's as well: what the guest has read or written,
 * and what the kernel mapped with it. For cs_picture_ranges() only. */
int cs_picture_take_seen(int pagemap_fd, const struct cs_ram *ram, struct cs_picture *ret);

/* Later, in the process that writes: (bytes) at (host) are its own too, since it has written there.
 * -EFAULT: that is not in (ram); -ENOMEM. */
int cs_picture_add(struct cs_picture *picture, const struct cs_ram *ram, const void *host,
		   size_t bytes);
void cs_picture_clear(struct cs_picture *picture);

struct cs_picture_count {
	uint64_t pages; /* found */
	uint64_t bytes; /* written: what was not zero */
};

/* Write them to (fd). Of segments that were COW the file must have their content before they were
 * written to (a clone of what they were mapped from). (go_on) is asked now and then: false ends it
 * with -ECANCELED. */
int cs_picture_write(const struct cs_picture *picture, int fd, bool (*go_on)(void *arg), void *arg,
		     struct cs_picture_count *ret, struct cs_err *err);

#define CS_PICTURE_RANGES_MAX 65536

/* Write them to the beginning of (fd) as struct cs_page_range, ascending; *ret_n: how many. -EFBIG:
 * more than CS_PICTURE_RANGES_MAX, nothing is written; -errno of writing. */
int cs_picture_ranges(const struct cs_picture *picture, int fd, size_t *ret_n);

/* The system calls by ioctl() that a save makes, but KVM's: for the sandbox. */
const unsigned long *cs_snapshot_ioctls(size_t *ret_n);
