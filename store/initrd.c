/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/initrd.h"

#include <errno.h>

int cs_initrd_make(const struct cs_initrd_spec *spec, int out_fd, struct cs_err *err)
{
	return cs_fail(err, ENOENT, "kernel %s needs modules", spec->release);
}
