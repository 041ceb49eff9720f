/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "cow/clone-private.h"

const struct cs_clone *const cs_clone_table[] = {
	&cs_clone_reflink,
	&cs_clone_copy,
	NULL,
};

int cs_clone_make(int dirfd, const char *name, int *ret, struct cs_err *err)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make '%s'", name);
	*ret = fd;
	return 0;
}

int cs_clone_file(int source_fd, int dirfd, const char *name, const char **ret_how,
		  struct cs_err *err)
{
	const char *only = getenv("CLEARSTORE_CLONE");
	int r = 0;

	for (size_t i = 0; cs_clone_table[i]; i++) {
		if (only && *only && strcmp(only, cs_clone_table[i]->name) != 0)
			continue;
		r = cs_clone_table[i]->clone_file(source_fd, dirfd, name, err);
		if (r == 0) {
			if (ret_how)
				*ret_how = cs_clone_table[i]->name;
			return 0;
		}
		if (r != -EOPNOTSUPP && r != -EXDEV && r != -EINVAL)
			return r;
	}
	if (r == 0)
		return cs_fail(err, EINVAL,
			       "CLEARSTORE_CLONE=%s: no such way to clone (reflink, copy)", only);
	return r;
}
