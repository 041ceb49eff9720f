/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by ksm.c and ksm-proc.c: what /proc tells. */
#pragma once

#include <sys/types.h>

#include "ksm/ksm.h"

struct cs_ksm_proc {
	int fd;     /* of the folder */
	pid_t ksmd; /* 0: not to be seen */
};

/* Open, and find ksmd. -errno. */
int cs_ksm_proc_open(const char *proc, struct cs_ksm_proc *ret);

/* Fill what is of /proc; what cannot be read or is no number stays CS_KSM_UNKNOWN. */
void cs_ksm_proc_sample(const struct cs_ksm_proc *proc, struct cs_ksm_sample *sample);
