/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The clone table: ways to make a private file of a template's, the first that can is taken. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"

struct cs_clone {
	const char *name; /* "reflink", "copy" */
	/* Make (name) in (dirfd) from (source_fd), all of it. -EOPNOTSUPP, -EXDEV, -EINVAL: cannot
	 * here, try the next. */
	int (*clone_file)(int source_fd, int dirfd, const char *name, struct cs_err *err);
};

extern const struct cs_clone *const cs_clone_table[]; /* NULL-ended; reflink, then sparse copy */

/* Clone by the first that can; *ret_how (may be NULL) is its name. CLEARSTORE_CLONE=copy in the
 * environment skips the others, so that tests can switch the good path off. */
int cs_clone_file(int source_fd, int dirfd, const char *name, const char **ret_how,
		  struct cs_err *err);
