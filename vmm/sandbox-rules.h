/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a running monitor may ask of the kernel. Only vmm/make-filter is made of it, when the
 * program is built: to have libseccomp write it anew for each guest would take half a millisecond
 * of each. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Stands for the process while the filter is made: above every pid (PID_MAX_LIMIT, 1 << 22), and no
 * number of any call. */
#define CS_SANDBOX_NOBODY 0x7fedcba9u

/* Write the filter to (fd), as struct sock_filter (linux/filter.h): what is not on the list, each
 * with its reason, kills the process (SECCOMP_RET_KILL_PROCESS). (restores): as in struct
 * cs_sandbox_spec. Signals go to process (pid) only, which is one constant of the program. -errno.
 */
int cs_sandbox_rules(bool restores, uint32_t pid, int fd);
