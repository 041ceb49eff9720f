/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The initrd of a guest with a distribution's kernel: the agent as /init, and the modules that a
 * clearstore machine needs, uncompressed, with the order to load them in. */
#pragma once

#include <stdint.h>

#include "store/base/err.h"
#include "store/image.h"
#include "store/tree.h"

struct cs_initrd_spec {
	const char *release; /* of the kernel */
	const char *kernel;  /* its path: modules are looked for in ../lib/modules beside it */
	const char *modules; /* folder to take them from; NULL: look for it */
	const char *agent;   /* becomes /init */
	struct cs_tree
		*tree; /* of the root: /lib/modules/<release> in it is tried too; may be NULL */
	struct cs_image *image; /* contents of (tree) */
};

/* Write a cpio (newc, uncompressed: a guest unpacks it) to the empty file (out_fd): /init,
 * /modules/<name>.ko, /modules/order (a line per module, in load order). What is built into the
 * kernel is left out. -ENOENT with words: no folder of modules, or a module is missing in it. */
int cs_initrd_make(const struct cs_initrd_spec *spec, int out_fd, struct cs_err *err);
