/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scope-bound ownership, and the only two ways to hand something on. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Release the variable when its scope ends: cs_auto(cs_fd_closep) int fd = -1; */
#define cs_auto(fn) __attribute__((cleanup(fn)))

/* Close *fd when it is open; keeps errno, so an early return's error survives; sets *fd = -1. */
static inline void cs_fd_closep(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

/* free(*(void **)ptr); for any pointer type. */
static inline void cs_mem_freep(void *ptr)
{
	free(*(void **)ptr);
	*(void **)ptr = NULL;
}

static inline void cs_file_closep(FILE **file)
{
	int saved = errno;

	if (*file)
		fclose(*file);
	*file = NULL;
	errno = saved;
}

static inline void cs_dir_closep(DIR **dir)
{
	int saved = errno;

	if (*dir)
		closedir(*dir);
	*dir = NULL;
	errno = saved;
}

/* Define cs_X_freep() from cs_X_free(), which takes NULL and a half-built X and returns NULL. */
#define CS_DEFINE_AUTO(type)                                                                       \
	static inline void type##_freep(struct type **ptr)                                         \
	{                                                                                          \
		*ptr = type##_free(*ptr);                                                          \
	}                                                                                          \
	struct cs_swallow_semicolon

/* Yield a pointer and leave NULL behind: *ret = cs_steal(built); */
#define cs_steal(ptr)                                                                              \
	({                                                                                         \
		__typeof__(ptr) stolen_ = (ptr);                                                   \
		(ptr) = NULL;                                                                      \
		stolen_;                                                                           \
	})

/* Yield a descriptor and leave -1 behind. */
static inline int cs_steal_fd(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}
