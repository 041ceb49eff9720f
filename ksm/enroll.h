/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which of a guest's memory the kernel may merge. Decided by what a segment is, since the kernel
 * does not tell: madvise(MADV_MERGEABLE) of a DAX or shared mapping returns 0 and does nothing
 * (Linux 6.12, mm/ksm.c ksm_madvise(), vma_ksm_compatible()). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "store/base/err.h"
#include "store/base/guest.h"

/* May what a guest has written to such a segment be merged? */
bool cs_ksm_may_merge(enum cs_backing backing);

/* In the process that has (ram) mapped: let the kernel merge what may be (on), or no longer, and
 * give back what is merged. That may take memory as if every page of it were written to.
 * (ranges_fd): a file of struct cs_page_range, ascending: only what is in these is let in, and the
 * rest taken out; -1: all. *ret_bytes (may be NULL): of what was meant. -EINVAL: this kernel has no
 * KSM, or the file is none of ranges of (ram); -ENOMEM, -EAGAIN. What was enrolled of (ram) is
 * taken back when it fails. */
int cs_ksm_enroll(const struct cs_ram *ram, bool on, int ranges_fd, uint64_t *ret_bytes,
		  struct cs_err *err);

#define CS_KSM_RANGES_MAX 512 /* of one guest: each splits a mapping */
