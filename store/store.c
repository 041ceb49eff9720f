/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "store/base/io.h"
#include "store/base/name.h"
#include "store/pool.h"
#include "store/subvol.h"

#define STORE_FILE     "store.json"
#define LOCK_FILE      ".lock"
#define ID_FILE        "id"
#define STORE_FILE_MAX 4096
#define SPACE_LOW      (UINT64_C(1) << 30)

struct cs_store {
	char *root;
	int dirfd, templates_fd, guests_fd;
	bool btrfs;
	char **swept; /* names */
	size_t swept_count;
};

int cs_store_format(int dirfd, struct cs_err *err)
{
	char text[64];
	int r, bytes;

	/* templates hold the guests' password files: for root only */
	r = cs_mkdir_at(dirfd, "templates", 0700);
	if (r == 0)
		r = cs_mkdir_at(dirfd, "guests", 0755);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot make the store's folders");
	bytes = snprintf(text, sizeof(text), "{\"format\": %d}\n", CS_STORE_FORMAT);
	return cs_publish_at(dirfd, STORE_FILE, 0644, text, (size_t)bytes, err);
}

static void json_freep(json_t **json)
{
	json_decref(*json);
}

int cs_store_check(int dirfd, const char *where, struct cs_err *err)
{
	cs_auto(json_freep) json_t *json = NULL;
	cs_auto(cs_mem_freep) char *text = NULL;
	const json_t *format;
	size_t bytes;
	int r;

	r = cs_read_file_at(dirfd, STORE_FILE, STORE_FILE_MAX, &text, &bytes);
	if (r == -ENOENT)
		return cs_fail(err, ENOENT, "'%s': no store here (make one: clearstore init)",
			       where);
	if (r < 0)
		return cs_fail_errno(err, -r, "'%s/%s'", where, STORE_FILE);
	json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	format = json_object_get(json, "format");
	if (!json_is_integer(format) || json_integer_value(format) < 1)
		return cs_fail(err, EBADMSG,
			       "'%s/%s': damaged (it says {\"format\": %d} in a store)", where,
			       STORE_FILE, CS_STORE_FORMAT);
	if (json_integer_value(format) > CS_STORE_FORMAT)
		return cs_fail(err, EPROTO,
			       "store '%s' was made by a newer clearstore (format %lld, this one "
			       "knows %d): update clearstore",
			       where, (long long)json_integer_value(format), CS_STORE_FORMAT);
	return 0;
}

/* A root that `init --path` made is a link; what it leads to may be on a disk that is not mounted.
 */
static int fail_none(const char *root, struct cs_err *err)
{
	char target[PATH_MAX];
	ssize_t n = readlink(root, target, sizeof(target) - 1);

	if (n <= 0 || access(root, F_OK) == 0)
		return cs_fail(err, ENOENT, "'%s': no store here (make one: clearstore init)",
			       root);
	target[n] = '\0';
	return cs_fail(
		err, ENOENT,
		"store '%s': leads to '%.200s', which is not there (mount its disk, or remove "
		"the link)",
		root, target);
}

/* Open the root if there is a store in it, mounting its image first where there is one. */
static int open_root(const char *root, int *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r = -ENOENT;

	for (int pass = 0; pass < 2; pass++) {
		cs_fd_closep(&fd);
		fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno != ENOENT)
			return cs_fail_errno(err, errno, "store '%s'", root);
		r = fd < 0 ? -ENOENT : cs_store_check(fd, root, err);
		if (r != -ENOENT || pass)
			break;
		r = cs_pool_mount(root, err);
		if (r < 0)
			break;
	}
	if (r == -ENOENT)
		return fail_none(root, err);
	if (r < 0)
		return r;
	*ret = cs_steal_fd(&fd);
	return 0;
}

static int open_folder(const struct cs_store *store, const char *name, int *ret, struct cs_err *err)
{
	int fd = openat(store->dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return cs_fail_errno(err, errno, "store '%s': cannot open folder '%s'%s",
				     store->root, name, errno == EACCES ? " (run as root)" : "");
	*ret = fd;
	return 0;
}

/* A version in the making, or one that was being deleted: hidden in the folder of its template.
 * False: another process works there, so this is not the time. */
static bool sweep_versions(int templates_fd, const char *mark)
{
	char name[CS_NAME_MAX + 1];
	const char *at = strchr(mark, '@');
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	if (!at || (size_t)(at - mark) > sizeof(name))
		return true;
	snprintf(name, sizeof(name), "%.*s", (int)(at - mark) - 1, mark + 1);
	fd = openat(templates_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return true;
	dir = fdopendir(fd);
	if (!dir || flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (!dir)
			close(fd);
		return false;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 &&
		    strcmp(entry->d_name, "..") != 0)
			cs_subvol_remove(fd, entry->d_name, NULL);
	}
	return true;
}

/* (name) is half-made, or half-removed. Its maker holds a flock on the folder itself; when that can
 * be had, the maker is dead, and nobody else can take the name as long as the folder has it. True:
 * it is gone. */
static bool sweep_one(int templates_fd, const char *name)
{
	cs_auto(cs_fd_closep) int fd =
		openat(templates_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat held, named;

	if (fd < 0) {
		return (errno == ENOTDIR || errno == ELOOP) && unlinkat(templates_fd, name, 0) == 0;
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return false;
	if (fstat(fd, &held) < 0 || fstatat(templates_fd, name, &named, AT_SYMLINK_NOFOLLOW) < 0 ||
	    held.st_ino != named.st_ino || held.st_dev != named.st_dev)
		return false; /* published or removed meanwhile */
	return sweep_versions(templates_fd, name) &&
	       cs_subvol_remove(templates_fd, name, NULL) == 0;
}

/* For who wants to know; with no memory it is not told. */
static void note_swept(struct cs_store *store, const char *name)
{
	char **larger = reallocarray(store->swept, store->swept_count + 1, sizeof(*larger));

	if (!larger)
		return;
	store->swept = larger;
	larger[store->swept_count] = strdup(name);
	store->swept_count += larger[store->swept_count] != NULL;
}

/* One reading of a short folder when there is nothing. What cannot be swept now is next time. */
static void sweep(struct cs_store *store)
{
	const int templates_fd = store->templates_fd;
	cs_auto(cs_dir_closep) DIR *dir = NULL;
	struct dirent *entry;
	int copy;

	copy = openat(templates_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' && strcmp(entry->d_name, ".") &&
		    strcmp(entry->d_name, "..") && sweep_one(templates_fd, entry->d_name))
			note_swept(store, entry->d_name);
	}
}

int cs_store_open(const char *root, struct cs_store **ret, struct cs_err *err)
{
	cs_auto(cs_store_freep) struct cs_store *store = calloc(1, sizeof(*store));
	struct statfs fs;
	int r;

	if (!store)
		return cs_fail_errno(err, ENOMEM, "store '%s'", root);
	store->dirfd = store->templates_fd = store->guests_fd = -1;
	store->root = strdup(root);
	if (!store->root)
		return cs_fail_errno(err, ENOMEM, "store '%s'", root);

	r = open_root(root, &store->dirfd, err);
	if (r == 0)
		r = open_folder(store, "templates", &store->templates_fd, err);
	if (r == 0)
		r = open_folder(store, "guests", &store->guests_fd, err);
	if (r < 0)
		return r;
	store->btrfs = fstatfs(store->dirfd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC;
	sweep(store);
	*ret = cs_steal(store);
	return 0;
}

const char *cs_store_swept(const struct cs_store *store, size_t i)
{
	return i < store->swept_count ? store->swept[i] : NULL;
}

const char *cs_store_root(const struct cs_store *store)
{
	return store->root;
}

int cs_store_dirfd(const struct cs_store *store)
{
	return store->dirfd;
}

int cs_store_templates_fd(const struct cs_store *store)
{
	return store->templates_fd;
}

int cs_store_guests_fd(const struct cs_store *store)
{
	return store->guests_fd;
}

bool cs_store_is_btrfs(const struct cs_store *store)
{
	return store->btrfs;
}

static int read_id(const struct cs_store *store, char ret[CS_STORE_ID_TEXT])
{
	cs_auto(cs_mem_freep) char *text = NULL;
	int r;

	r = cs_read_file_at(store->dirfd, ID_FILE, 64, &text, NULL);
	if (r < 0)
		return r;
	if (strspn(text, "0123456789abcdef") != CS_STORE_ID_TEXT - 1)
		return -EBADMSG;
	memcpy(ret, text, CS_STORE_ID_TEXT - 1);
	ret[CS_STORE_ID_TEXT - 1] = '\0';
	return 0;
}

int cs_store_id(struct cs_store *store, char ret[CS_STORE_ID_TEXT], struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	uint64_t random[2];
	char text[CS_STORE_ID_TEXT];
	int r;

	r = read_id(store, ret);
	if (r != -ENOENT)
		return r < 0 ? cs_fail_errno(err, -r, "'%s/%s'", store->root, ID_FILE) : 0;
	if (getentropy(random, sizeof(random)) < 0)
		return cs_fail_errno(err, errno, "no random numbers");
	snprintf(text, sizeof(text), "%016llx%016llx", (unsigned long long)random[0],
		 (unsigned long long)random[1]);
	/* a name of its own, then a link that only one can make */
	r = cs_publish_at(store->dirfd, text, 0444, text, strlen(text), err);
	if (r < 0)
		return r;
	if (linkat(store->dirfd, text, store->dirfd, ID_FILE, 0) < 0 && errno != EEXIST)
		r = cs_fail_errno(err, errno, "'%s/%s'", store->root, ID_FILE);
	unlinkat(store->dirfd, text, 0);
	if (r == 0 && fsync(store->dirfd) < 0)
		r = cs_fail_errno(err, errno, "'%s/%s'", store->root, ID_FILE);
	if (r < 0)
		return r;
	r = read_id(store, ret);
	return r < 0 ? cs_fail_errno(err, -r, "'%s/%s'", store->root, ID_FILE) : 0;
}

static uint64_t free_bytes(const struct statvfs *fs)
{
	return (uint64_t)fs->f_bavail * fs->f_frsize;
}

/* Give what the store has freed back to the disk under its image, now and not in a while. */
static void trim(int dirfd)
{
	struct fstrim_range all = { .len = UINT64_MAX };

	syncfs(dirfd);
	ioctl(dirfd, FITRIM, &all);
}

int cs_store_open_under(const struct cs_store *store, int *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *image = NULL;
	size_t bytes = strlen(store->root);
	int fd;

	while (bytes > 1 && store->root[bytes - 1] == '/')
		bytes--;
	if (asprintf(&image, "%.*s.img", (int)bytes, store->root) < 0) {
		image = NULL;
		return cs_fail_errno(err, ENOMEM, "store '%s'", store->root);
	}
	fd = open(image, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "'%s'", image);
	*ret = fd;
	return 0;
}

int cs_store_space(const struct cs_store *store, uint64_t *ret_bytes, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int under_fd = -1;
	struct statvfs fs, under;
	uint64_t space;

	if (fstatvfs(store->dirfd, &fs) < 0)
		return cs_fail_errno(err, errno, "store '%s'", store->root);
	/* What was just deleted is free when that is committed. */
	if (store->btrfs && free_bytes(&fs) < SPACE_LOW && syncfs(store->dirfd) == 0 &&
	    fstatvfs(store->dirfd, &fs) < 0)
		return cs_fail_errno(err, errno, "store '%s'", store->root);
	space = free_bytes(&fs);

	/* The image is sparse: when the disk under it is full, its Btrfs gets errors where it was
	 * promised room, and goes read-only. */
	if (cs_store_open_under(store, &under_fd, NULL) == 0 && fstatvfs(under_fd, &under) == 0 &&
	    free_bytes(&under) < space) {
		trim(store->dirfd);
		if (fstatvfs(under_fd, &under) == 0 && free_bytes(&under) < space)
			space = free_bytes(&under);
	}
	*ret_bytes = space;
	return 0;
}

int cs_store_lock(const struct cs_store *store, bool exclusive, int *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;

	fd = openat(store->dirfd, LOCK_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot lock store '%s'", store->root);
	while (flock(fd, exclusive ? LOCK_EX : LOCK_SH) < 0) {
		if (errno != EINTR)
			return cs_fail_errno(err, errno, "cannot lock store '%s'", store->root);
	}
	*ret = cs_steal_fd(&fd);
	return 0;
}

struct cs_store *cs_store_free(struct cs_store *store)
{
	if (!store)
		return NULL;
	cs_fd_closep(&store->guests_fd);
	cs_fd_closep(&store->templates_fd);
	cs_fd_closep(&store->dirfd);
	for (size_t i = 0; i < store->swept_count; i++)
		free(store->swept[i]);
	free(store->swept);
	free(store->root);
	free(store);
	return NULL;
}
