/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm/guest/agent/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *cs_file_read(int fd)
{
	size_t room = 4096, n = 0;
	char *text = malloc(room);
	ssize_t got = -1;

	while (text && (got = read(fd, text + n, room - n - 1)) > 0) {
		char *grown;

		n += (size_t)got;
		if (n + 1 < room)
			continue;

		grown = room < CS_FILE_MAX ? realloc(text, room * 2) : NULL;
		if (!grown) {
			got = -1;
			break;
		}
		text = grown;
		room *= 2;
	}

	if (got < 0) {
		free(text);
		return NULL;
	}

	text[n] = 0;
	return text;
}

char *cs_file_load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char *text;

	if (fd < 0)
		return NULL;
	text = cs_file_read(fd);
	close(fd);
	return text;
}

int cs_file_write_all(int fd, const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes) {
		ssize_t n = write(fd, at, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		bytes -= (size_t)n;
	}

	return 0;
}

int cs_file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), r;

	if (fd < 0)
		return -errno;

	r = cs_file_write_all(fd, text, strlen(text));
	close(fd);
	return r;
}

int cs_file_set(const char *path, const char *text)
{
	char *now = cs_file_load(path);
	bool same = now && !strcmp(now, text);

	free(now);
	return same ? 0 : cs_file_write(path, text);
}
