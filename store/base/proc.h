/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What /proc/PID/stat says (Documentation/filesystems/proc.rst, table 1-4). */
#pragma once

#include <stdint.h>
#include <sys/types.h>

struct cs_proc_stat {
	char state;                        /* field 3: 'R', 'S', ...; 'Z', 'X': dead */
	uint64_t user_ticks, system_ticks; /* fields 14, 15: of all threads, in clock ticks */
	uint64_t start_ticks;              /* field 22: since boot */
};

/* (proc): "/proc", or a test's. -ESRCH: no such process, -EBADMSG: not what it should look like. */
int cs_proc_stat(const char *proc, pid_t pid, struct cs_proc_stat *ret);
