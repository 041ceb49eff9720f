/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A folder of its own for a test, and small files in it. */
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/base/io.h"

struct scratch {
	char path[256];
	int fd;
};

/* Setup and teardown of a test; *state is the struct scratch. */
static inline int scratch_make(void **state)
{
	struct scratch *scratch = calloc(1, sizeof(*scratch));
	const char *under = getenv("TMPDIR");

	assert_non_null(scratch);
	snprintf(scratch->path, sizeof(scratch->path), "%s/clearstore-test-XXXXXX",
		 under ? under : "/tmp");
	assert_non_null(mkdtemp(scratch->path));
	scratch->fd = open(scratch->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(scratch->fd >= 0);
	*state = scratch;
	return 0;
}

static inline int scratch_remove(void **state)
{
	struct scratch *scratch = *state;

	close(scratch->fd);
	assert_int_equal(cs_remove_tree_at(AT_FDCWD, scratch->path), 0);
	free(scratch);
	return 0;
}

/* Put (text) into the file (name), as it is, without the code under test. */
static inline void scratch_write(int dirfd, const char *name, const char *text)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* Number of entries in the folder (name), without "." and "..". */
static inline int scratch_count(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	int n = -2;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
