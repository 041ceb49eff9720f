/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file as a block device: /dev/loopN over it, with direct I/O, gone with its last user. */
#pragma once

#include <stdbool.h>

#include "store/base/err.h"

#define CS_LOOPDEV_PATH 32

/* The device of the file (image_fd): the one it is attached to already, in any mount namespace, or
 * a new one. Never two: a Btrfs that is seen through two devices would be mounted twice and torn.
 * The caller holds the image's flock against others who attach it. *ret_fd keeps the device until a
 * mount does; it frees itself after the last close (LO_FLAGS_AUTOCLEAR). (path) is its name.
 * Logical blocks of 4 KiB and direct I/O, so that the image's pages are not cached twice, where the
 * file system under it can. -ENOENT, -EACCES, -EPERM: no loop devices here. */
int cs_loopdev_attach(int image_fd, bool read_only, int *ret_fd, char path[CS_LOOPDEV_PATH],
		      struct cs_err *err);
