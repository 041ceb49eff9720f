/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/held.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "store/base/own.h"
#include "store/subvol.h"

#define TRIES     100
#define WAITS     20
#define WAIT_NSEC 10000000

bool cs_held_is(int fd, int dirfd, const char *name)
{
	struct stat held, named;

	return fstat(fd, &held) == 0 && fstatat(dirfd, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

int cs_held_make(int dirfd, const char *name, int *ret, struct cs_err *err)
{
	int r;

	for (int tries = 0; tries < TRIES; tries++) {
		cs_auto(cs_fd_closep) int fd = -1;
		bool made = mkdirat(dirfd, name, 0700) == 0;

		if (!made && errno != EEXIST)
			return cs_fail_errno(err, errno, "cannot write to the store");
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return cs_fail_errno(err, errno, "cannot write to the store");
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			if (tries < WAITS) { /* a sweeper is done in a moment, a maker is not */
				nanosleep(&(struct timespec){ .tv_nsec = WAIT_NSEC }, NULL);
				continue;
			}
			return cs_fail(err, EBUSY, "another process works on it right now");
		}
		if (!cs_held_is(fd, dirfd, name))
			continue;
		if (made) {
			*ret = cs_steal_fd(&fd);
			return 0;
		}
		r = cs_subvol_remove(dirfd, name, err);
		if (r < 0)
			return r;
	}
	return cs_fail(err, EBUSY, "another process works on it right now");
}
