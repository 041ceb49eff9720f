/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small files of the guest, whole: read, written. */
#pragma once

#include <stddef.h>

/* The most that is read of one. */
#define CS_FILE_MAX ((size_t)1 << 20)

/* The text of (path), NUL-terminated, the caller's to free(); NULL: not readable, or over
 * CS_FILE_MAX. */
char *cs_file_load(const char *path);

/* The same of what is still to be read from (fd). */
char *cs_file_read(int fd);

/* Make (path) hold exactly (text). 0 or -errno. */
int cs_file_write(const char *path, const char *text);

/* Make (path) hold exactly (text), and write only when it does not. */
int cs_file_set(const char *path, const char *text);

/* All of it, however often write() takes a part. 0 or -errno. */
int cs_file_write_all(int fd, const void *data, size_t bytes);
