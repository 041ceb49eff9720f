/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ksm/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "store/base/io.h"
#include "store/base/num.h"

#define LOCK           "ksm.lock"
#define SAVED          "ksm.saved"
#define FORMAT         "1"
#define FILE_BYTES_MAX 4096
#define BOOT_ROOM      64
#define LOCK_LOOKS     200
#define LOCK_LOOK_NS   10000000

struct cs_ksm_keep {
	int dirfd, lock_fd;
	bool locked; /* by us: the pid in it is ours */
	char boot[BOOT_ROOM];
};

/* ---- the lock ------------------------------------------------------------------------------ */

static int read_boot(const char *proc, char boot[BOOT_ROOM])
{
	cs_auto(cs_mem_freep) char *text = NULL;
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/sys/kernel/random/boot_id", proc) >=
	    sizeof(path))
		return -ENAMETOOLONG;
	/* A host that does not tell: then only the folder itself, on a tmpfs, tells boots apart. */
	if (cs_read_file_at(AT_FDCWD, path, FILE_BYTES_MAX, &text, NULL) < 0)
		text = strdup("-");
	if (!text)
		return -ENOMEM;
	text[strspn(text, "0123456789abcdef-")] = '\0';
	snprintf(boot, BOOT_ROOM, "%s", *text ? text : "-");
	return 0;
}

static int holder_of(int lock_fd)
{
	char text[16] = "";
	uint64_t pid;
	ssize_t n = pread(lock_fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	return cs_parse_u64(text, INT32_MAX, &pid) == 0 ? (int)pid : 0;
}

int cs_ksm_keep_holder(const char *dir)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s/" LOCK, dir) >= sizeof(path))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0)
		return 0;
	return holder_of(fd);
}

static int denied(int code, const char *dir, struct cs_err *err)
{
	if (code == EACCES || code == EPERM || code == EROFS)
		return cs_fail(err, EACCES, "no permission to keep the settings in '%s' (be root)",
			       dir);
	return cs_fail_errno(err, code, "cannot keep the settings in '%s'", dir);
}

/* Who has it and has no number in it has just come, or is about to go. *ret: that of one who stays;
 * 0: not known. */
static int lock_or_wait(int lock_fd, int *ret)
{
	const struct timespec nap = { .tv_nsec = LOCK_LOOK_NS };

	for (unsigned looks = 0; flock(lock_fd, LOCK_EX | LOCK_NB) < 0; looks++) {
		*ret = holder_of(lock_fd);
		if (*ret || looks == LOCK_LOOKS)
			return -EBUSY;
		nanosleep(&nap, NULL);
	}
	return 0;
}

static int lock(struct cs_ksm_keep *keep, const char *dir, struct cs_err *err)
{
	char text[16];
	int pid;

	/* Whoever can lock it is believed to be the tuner, and ended by ksm off: nobody but us. */
	keep->lock_fd = openat(keep->dirfd, LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (keep->lock_fd < 0 || fchmod(keep->lock_fd, 0600) < 0)
		return denied(errno, dir, err);
	if (lock_or_wait(keep->lock_fd, &pid) < 0)
		return pid ? cs_fail(err, EBUSY,
				     "another tuner runs (process %d): there is one a host", pid)
			   : cs_fail(err, EBUSY,
				     "'%s/" LOCK "' is locked by who is no tuner (see lslocks)",
				     dir);
	keep->locked = true;
	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	if (ftruncate(keep->lock_fd, 0) < 0 ||
	    pwrite(keep->lock_fd, text, strlen(text), 0) != (ssize_t)strlen(text))
		return denied(errno, dir, err);
	return 0;
}

int cs_ksm_keep_open(const char *dir, const char *proc, struct cs_ksm_keep **ret,
		     struct cs_err *err)
{
	cs_auto(cs_ksm_keep_freep) struct cs_ksm_keep *keep = calloc(1, sizeof(*keep));
	int r;

	if (!keep)
		return cs_fail_errno(err, ENOMEM, "KSM's settings");
	keep->dirfd = keep->lock_fd = -1;
	r = read_boot(proc, keep->boot);
	if (r == 0)
		r = cs_mkdir_path(AT_FDCWD, dir, 0755);
	if (r < 0)
		return denied(-r, dir, err);
	keep->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (keep->dirfd < 0)
		return denied(errno, dir, err);
	r = lock(keep, dir, err);
	if (r < 0)
		return r;
	*ret = cs_steal(keep);
	return 0;
}

/* ---- what was there ------------------------------------------------------------------------ */

int cs_ksm_keep_save(struct cs_ksm_keep *keep, const struct cs_ksm_setting *setting,
		     struct cs_err *err)
{
	char text[FILE_BYTES_MAX];
	size_t n, used;
	const struct cs_ksm_field *fields = cs_ksm_setting_fields(&n);

	used = (size_t)snprintf(text, sizeof(text), "format " FORMAT "\nboot %s\n", keep->boot);
	for (size_t i = 0; i < n; i++) {
		const int64_t value = cs_ksm_field_get(setting, &fields[i]);

		if (value != CS_KSM_UNKNOWN)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %lld\n",
						 fields[i].name, (long long)value);
	}
	return cs_publish_at(keep->dirfd, SAVED, 0644, text, used, err);
}

static int parse_line(const char *name, const char *number, struct cs_ksm_setting *ret)
{
	size_t n;
	const struct cs_ksm_field *fields = cs_ksm_setting_fields(&n);
	int64_t value;

	for (size_t i = 0; i < n; i++) {
		if (strcmp(fields[i].name, name) != 0)
			continue;
		if (cs_ksm_parse(number, false, &value) < 0)
			return -EBADMSG;
		cs_ksm_field_set(ret, &fields[i], value);
		return 0;
	}
	return 0; /* of a version that knows more */
}

/* 1: read; 0: of another boot; -EBADMSG. */
static int parse_saved(const struct cs_ksm_keep *keep, char *text, struct cs_ksm_setting *ret)
{
	bool format = false, boot = false;
	char *line, *rest = NULL;
	int r = 0;

	*ret = cs_ksm_setting_unknown();
	for (line = strtok_r(text, "\n", &rest); line && r == 0;
	     line = strtok_r(NULL, "\n", &rest)) {
		char *number = strchr(line, ' ');

		if (!number)
			return -EBADMSG;
		*number++ = '\0';
		if (strcmp(line, "format") == 0) {
			format = strcmp(number, FORMAT) == 0;
		} else if (strcmp(line, "boot") == 0) {
			boot = true;
			if (strcmp(number, keep->boot) != 0)
				return 0;
		} else {
			r = parse_line(line, number, ret);
		}
	}
	return r < 0 || !format || !boot || ret->run == CS_KSM_UNKNOWN ? -EBADMSG : 1;
}

static bool has_room(const struct cs_ksm_sample *sample)
{
	const int64_t pages = cs_ksm_saved_pages(sample);

	return sample->available_bytes != CS_KSM_UNKNOWN &&
	       pages < sample->available_bytes / 2 / 4096;
}

static int put_back(struct cs_ksm *ksm, struct cs_ksm_setting *saved, struct cs_err *err)
{
	struct cs_ksm_sample sample;
	int r;

	r = cs_ksm_sample(ksm, &sample, err);
	if (r < 0)
		return r;
	if (saved->run == 2 && !has_room(&sample))
		saved->run = 0;
	return cs_ksm_apply(ksm, saved, err);
}

int cs_ksm_keep_restore(struct cs_ksm_keep *keep, struct cs_ksm *ksm, bool *ret, struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	struct cs_ksm_setting saved;
	int r, known;

	r = cs_read_file_at(keep->dirfd, SAVED, FILE_BYTES_MAX, &text, NULL);
	if (r == -ENOENT) {
		*ret = false;
		return 0;
	}
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read '" SAVED "', KSM's settings of before");
	known = parse_saved(keep, text, &saved);
	if (known < 0)
		return cs_fail(err, EBADMSG,
			       "'" SAVED "', KSM's settings of before, is broken (set them by "
			       "hand, then remove it)");
	r = known ? put_back(ksm, &saved, err) : 0;
	if (r < 0)
		return r;
	if (unlinkat(keep->dirfd, SAVED, 0) < 0 && errno != ENOENT)
		return cs_fail_errno(err, errno, "cannot remove '" SAVED "'");
	*ret = known;
	return 0;
}

struct cs_ksm_keep *cs_ksm_keep_free(struct cs_ksm_keep *keep)
{
	if (!keep)
		return NULL;
	/* The number will be another process's. */
	if (keep->locked && ftruncate(keep->lock_fd, 0) < 0)
		keep->locked = false;
	cs_fd_closep(&keep->lock_fd);
	cs_fd_closep(&keep->dirfd);
	free(keep);
	return NULL;
}
