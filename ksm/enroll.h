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
 * give back what is merged. That may take memory as if every page of it were written to. *ret_bytes
 * (may be NULL): of the segments that were meant. -EINVAL: this kernel has no KSM; -ENOMEM,
 * -EAGAIN. What was enrolled before a failure is taken back. */
int cs_ksm_enroll(const struct cs_ram *ram, bool on, uint64_t *ret_bytes, struct cs_err *err);
