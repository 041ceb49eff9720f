/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/quarantine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/own.h"
#include "store/base/text.h"

#define NOTE_NAME (2 * CS_NAME_MAX + 2)

static int open_folder(const struct cs_store *store)
{
	int fd = openat(cs_store_dirfd(store), CS_QUARANTINE_FOLDER,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int cs_quarantine_put(struct cs_store *store, const char *name, const char *version,
		      const char *words, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	char note[NOTE_NAME];
	int r;

	r = cs_mkdir_at(cs_store_dirfd(store), CS_QUARANTINE_FOLDER, 0700);
	dirfd = r < 0 ? r : open_folder(store);
	if (dirfd < 0)
		return cs_fail_errno(err, -dirfd, "cannot note that '%s@%s' is damaged", name,
				     version);
	snprintf(note, sizeof(note), "%s@%s", name, version);
	return cs_publish_at(dirfd, note, 0644, words, strlen(words), err);
}

bool cs_quarantine_any(const struct cs_store *store)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int dirfd = open_folder(store);

	dir = dirfd < 0 ? NULL : fdopendir(dirfd);
	if (!dir)
		return dirfd != -ENOENT;
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			return true;
	}
	return false;
}

bool cs_quarantine_get(const struct cs_store *store, const char *name, const char *version,
		       char words[CS_QUARANTINE_TEXT])
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char path[sizeof(CS_QUARANTINE_FOLDER) + NOTE_NAME];
	int r;

	snprintf(path, sizeof(path), CS_QUARANTINE_FOLDER "/%s@%s", name, version);
	r = cs_read_file_at(cs_store_dirfd(store), path, 4096, &text, NULL);
	if (r == -ENOENT)
		return false;
	snprintf(words, CS_QUARANTINE_TEXT, "%s",
		 r == 0 && text[0] ? cs_text_clean(text, false) : "damaged");
	return true;
}

void cs_quarantine_lift(const struct cs_store *store, const char *name, const char *version)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	const size_t bytes = strlen(name);
	struct dirent *entry;
	int dirfd = open_folder(store);

	dir = dirfd < 0 ? NULL : fdopendir(dirfd);
	while (dir && (entry = readdir(dir))) {
		const char *at = entry->d_name + bytes;

		if (strncmp(entry->d_name, name, bytes) == 0 && *at == '@' &&
		    (!version || strcmp(at + 1, version) == 0))
			unlinkat(dirfd, entry->d_name, 0);
	}
}
