/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Run another program (mkfs.erofs, mke2fs, mkfs.btrfs) and say what it said when it fails. */
#pragma once

#include "store/base/err.h"

/* Run argv[0] (looked up in PATH) with stdin from /dev/null, stdout and stderr captured, waits for
 * it. It dies with us (PR_SET_PDEATHSIG). 0; on failure -ENOENT: no such program ((package) is
 * named as the way out), -EIO: it failed, and (err) holds its last line of output. */
int cs_run(const char *const argv[], const char *package, struct cs_err *err);
