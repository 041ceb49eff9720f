/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel's files say of KSM, below a folder of a test's: "ksm/" stands for
 * /sys/kernel/mm/ksm, "proc/" for /proc. Process 37 is ksmd. */
#pragma once

#include <stddef.h>

struct fake_file {
	const char *name, *text;
};

extern const struct fake_file fake_ksm_old[]; /* Linux 6.1 */
extern const size_t fake_ksm_old_n;
extern const struct fake_file fake_ksm_new[]; /* what Linux 6.8 has besides */
extern const size_t fake_ksm_new_n;
