/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rm -r. A tree may be as deep as an archive made it: so neither the stack nor the table of
 * descriptors may grow with its depth. One folder is open at a time; the way back is "..", and it
 * counts only if it leads to the folder that we came from. */
#include "store/base/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/base/own.h"

struct level {
	dev_t dev;
	ino_t ino; /* of the folder that holds (name) */
	char *name;
};

struct walk {
	int fd;    /* the folder we are in */
	dev_t dev; /* the file system we stay in */
	struct level *level;
	size_t depth, room;
};

static void walk_closep(struct walk *w)
{
	cs_fd_closep(&w->fd);
	while (w->depth)
		free(w->level[--w->depth].name);
	free(w->level);
}

static int push(struct walk *w, const struct stat *here, const char *name)
{
	struct level *larger;
	char *copy;

	if (w->depth == w->room) {
		larger = reallocarray(w->level, w->room ? w->room * 2 : 16, sizeof(*larger));
		if (!larger)
			return -ENOMEM;
		w->level = larger;
		w->room = w->room ? w->room * 2 : 16;
	}
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	w->level[w->depth++] =
		(struct level){ .dev = here->st_dev, .ino = here->st_ino, .name = copy };
	return 0;
}

/* Go into the folder (name), or remove it here and now when it is empty or not ours to enter.
 * 1: entered, 0: gone. */
static int enter(struct walk *w, const char *name)
{
	cs_auto(cs_fd_closep) int child = -1;
	struct stat here, there;
	int r;

	if (unlinkat(w->fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != ENOTEMPTY && errno != EEXIST)
		return -errno; /* EBUSY: something is mounted on it */

	child = openat(w->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (child < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(child, &there) < 0 || fstat(w->fd, &here) < 0)
		return -errno;
	if (there.st_dev != w->dev)
		return -ENOTEMPTY; /* a subvolume */
	r = push(w, &here, name);
	if (r < 0)
		return r;
	cs_fd_closep(&w->fd);
	w->fd = cs_steal_fd(&child);
	return 1;
}

/* Back to the parent, and remove what we came out of. */
static int leave(struct walk *w)
{
	cs_auto(cs_mem_freep) char *name = NULL;
	struct level *top = &w->level[--w->depth];
	struct stat st;
	int up;

	name = top->name;
	up = openat(w->fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (up < 0)
		return -errno;
	cs_fd_closep(&w->fd);
	w->fd = up;
	if (fstat(up, &st) < 0)
		return -errno;
	if (st.st_dev != top->dev || st.st_ino != top->ino)
		return -ESTALE; /* somebody moved the tree while we were in it */
	if (unlinkat(up, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

/* Remove what is in the current folder. 1: went into a folder first, 0: it is empty now. */
static int clear(struct walk *w)
{
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int fd, r;

	fd = openat(w->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	for (;;) {
		errno = 0;
		entry = readdir(dir);
		if (!entry)
			return -errno;
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (entry->d_type != DT_DIR) {
			if (unlinkat(w->fd, entry->d_name, 0) == 0 || errno == ENOENT)
				continue;
			if (errno != EISDIR)
				return -errno;
		}
		r = enter(w, entry->d_name);
		if (r != 0)
			return r;
	}
}

/* Open the folder that holds (path)'s last component, which is copied to (base). */
static int open_parent(int dirfd, const char *path, char base[NAME_MAX + 1], int *ret)
{
	cs_auto(cs_mem_freep) char *copy = strdup(path);
	size_t length;
	char *last;
	int fd;

	if (!copy)
		return -ENOMEM;
	for (length = strlen(copy); length > 1 && copy[length - 1] == '/';)
		copy[--length] = '\0';
	last = strrchr(copy, '/');
	last = last ? last + 1 : copy;
	length = strlen(last);
	if (!length || !strcmp(last, ".") || !strcmp(last, ".."))
		return -EINVAL;
	if (length > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(base, last, length + 1);
	*last = '\0';
	fd = openat(dirfd, *copy ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	*ret = fd;
	return 0;
}

int cs_remove_tree_at(int dirfd, const char *name)
{
	cs_auto(walk_closep) struct walk w = { .fd = -1 };
	char base[NAME_MAX + 1];
	struct stat st;
	int r;

	r = open_parent(dirfd, name, base, &w.fd);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (fstat(w.fd, &st) < 0)
		return -errno;
	w.dev = st.st_dev;
	if (unlinkat(w.fd, base, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return -errno;

	r = enter(&w, base);
	while (r > 0 || (r == 0 && w.depth)) {
		r = clear(&w);
		if (r == 0)
			r = leave(&w);
	}
	return r;
}
