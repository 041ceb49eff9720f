/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What pool.c and pool-image.c know of each other. */
#pragma once

#include <limits.h>

#include "store/base/err.h"

struct cs_pool_place {
	char root[PATH_MAX];      /* without a slash at its end */
	char image[PATH_MAX + 8]; /* <root>.img */
	char fresh[PATH_MAX + 8]; /* <root>.img.new: while it is made */
};

int cs_pool_place(const char *root, struct cs_pool_place *ret, struct cs_err *err);

/* The image, locked: others who attach or change it wait. The descriptor, which the caller closes.
 * -ENOENT: there is none. */
int cs_pool_open_image(const struct cs_pool_place *place, struct cs_err *err);
