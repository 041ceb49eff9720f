/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One tuner a host, and what it found is put back: also after a crash, by the next one. In a folder
 * of its own (CS_KSM_RUN):
 *
 *	ksm.lock     locked (flock) by the tuner that runs; holds its pid
 *	ksm.saved    the settings as they were before it changed the first: a line "NAME NUMBER"
 *each, behind "format 1" and "boot ID" (what another boot had is worth nothing) */
#pragma once

#include <stdbool.h>

#include "ksm/ksm.h"

#define CS_KSM_RUN "/run/clearstore"

struct cs_ksm_keep;

/* Make the folder, take the lock. -EBUSY with words: another tuner runs; one that is just going is
 * waited for, 2 s at most. -EACCES with words. */
int cs_ksm_keep_open(const char *dir, const char *proc, struct cs_ksm_keep **ret,
		     struct cs_err *err);

/* The pid of the tuner that runs; 0: none does. */
int cs_ksm_keep_holder(const char *dir);

/* Write down what is, before anything is changed. */
int cs_ksm_keep_save(struct cs_ksm_keep *keep, const struct cs_ksm_setting *setting,
		     struct cs_err *err);

/* Put back what was written down, and forget it. *ret: was there anything? Of a boot that is over
 * it is forgotten only. "run" 2, which gives every merged page back, is put back as 0 when (sample)
 * says that there is no room for them. -EBADMSG: the file is broken (then it is left, with words).
 */
int cs_ksm_keep_restore(struct cs_ksm_keep *keep, struct cs_ksm *ksm, bool *ret,
			struct cs_err *err);

struct cs_ksm_keep *cs_ksm_keep_free(struct cs_ksm_keep *keep); /* lets go of the lock */
CS_DEFINE_AUTO(cs_ksm_keep);
