/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/pressure.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "store/base/own.h"

int cs_pressure_open(const char *proc, unsigned stall_us, unsigned window_us, int *ret)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char path[PATH_MAX], line[64];

	if ((size_t)snprintf(path, sizeof(path), "%s/pressure/memory", proc) >= sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(line, sizeof(line), "some %u %u", stall_us, window_us);
	/* The kernel wants the string's end, too. */
	if (write(fd, line, strlen(line) + 1) < 0)
		return -errno;
	*ret = cs_steal_fd(&fd);
	return 0;
}
