/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's command line: words between spaces, where quotes hide spaces. */
#pragma once

/* The value of the last (name)=, without quotes; NULL: not there, or no memory. The caller's. */
char *cs_cmdline_value(const char *cmdline, const char *name);

/* The parameters for the module in the file (file) ("virtio_mmio.ko"): of each word MODULE.X=Y or
 * MODULE.X the part behind the dot, one space between them, in order, quotes kept for the kernel to
 * take off. '-' and '_' are the same in the module's name. A parameter may occur again and again
 * (virtio_mmio.device): the kernel hands each to the module. NULL: no memory. The caller's. */
char *cs_cmdline_module(const char *cmdline, const char *file);
