/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/note.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/own.h"

#define NOTE_NAME (2 * CS_NAME_MAX + 2)

static int open_folder(const struct cs_store *store, const char *folder)
{
	int fd = openat(cs_store_dirfd(store), folder,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int cs_note_put(const struct cs_store *store, const char *folder, const char *name,
		const char *version, const char *text, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	char note[NOTE_NAME];
	int r;

	r = cs_mkdir_at(cs_store_dirfd(store), folder, 0700);
	dirfd = r < 0 ? r : open_folder(store, folder);
	if (dirfd < 0)
		return cs_fail_errno(err, -dirfd, "the store's folder '%s'", folder);
	snprintf(note, sizeof(note), "%s@%s", name, version);
	return cs_publish_at(dirfd, note, 0644, text, strlen(text), err);
}

int cs_note_get(const struct cs_store *store, const char *folder, const char *name,
		const char *version, size_t max, char **ret)
{
	char path[32 + NOTE_NAME];

	snprintf(path, sizeof(path), "%s/%s@%s", folder, name, version);
	return cs_read_file_at(cs_store_dirfd(store), path, max, ret, NULL);
}

bool cs_note_any(const struct cs_store *store, const char *folder)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int dirfd = open_folder(store, folder);

	dir = dirfd < 0 ? NULL : fdopendir(dirfd);
	if (!dir)
		return dirfd != -ENOENT;
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			return true;
	}
	return false;
}

void cs_note_lift(const struct cs_store *store, const char *folder, const char *name,
		  const char *version)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	const size_t bytes = strlen(name);
	struct dirent *entry;
	int dirfd = open_folder(store, folder);

	dir = dirfd < 0 ? NULL : fdopendir(dirfd);
	while (dir && (entry = readdir(dir))) {
		const char *at = entry->d_name + bytes;

		if (strncmp(entry->d_name, name, bytes) == 0 && *at == '@' &&
		    (!version || strcmp(at + 1, version) == 0))
			unlinkat(dirfd, entry->d_name, 0);
	}
}

void cs_note_forget(const struct cs_store *store, const char *name, const char *version)
{
	cs_note_lift(store, CS_NOTE_QUARANTINE, name, version);
	cs_note_lift(store, CS_NOTE_HOT, name, version);
}
