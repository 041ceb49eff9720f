/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hear at once when memory is short (Documentation/accounting/psi.rst). */
#pragma once

/* A descriptor that poll() reports POLLPRI of, at most once a window, when some task waited for
 * memory for (stall_us) within (window_us): 500000 to 10000000, or a multiple of 2 s for who is not
 * root. POLLERR: the kernel has taken it away. *ret is the caller's. -ENOENT, -EOPNOTSUPP: no PSI;
 * -EPERM, -EINVAL: not such a window. */
int cs_pressure_open(const char *proc, unsigned stall_us, unsigned window_us, int *ret);
