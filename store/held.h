/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Folders that tell that something is under way: a dot name that its maker holds a flock on. One
 * that can be locked is a dead maker's, and whoever opens the store sweeps it, and what it stands
 * for (store.c). */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"

/* Is the folder (fd) still the one called (name) in (dirfd)? A sweeper may have been faster than
 * our lock. */
bool cs_held_is(int fd, int dirfd, const char *name);

/* Make the folder (name) in (dirfd) and lock it; what a dead maker left is removed. *ret is the
 * caller's: closing it lets go. -EBUSY: another process holds it. */
int cs_held_make(int dirfd, const char *name, int *ret, struct cs_err *err);
