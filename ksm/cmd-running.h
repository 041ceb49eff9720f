/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who runs, cheaply: by the marks that guests leave (cow/life.h), without reading thousands of
 * cards. Only commands include it. */
#pragma once

#include <sys/types.h>

#include "store/base/err.h"
#include "store/store.h"

/* For each guest of the store that was started and not yet swept: it may have ended since. What
 * (fn) returns, when it is not 0, ends it and is returned. */
typedef int (*cs_running_fn)(void *arg, pid_t pid, const char *guest);
int cs_running_each(struct cs_store *store, cs_running_fn fn, void *arg, struct cs_err *err);
