/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest's folder comes and goes by one rename: it is made and deleted in .marks. */
#include "cow/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/card-private.h"
#include "cow/clone.h"
#include "cow/life.h"
#include "cow/overlay-private.h"
#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/quota.h"
#include "store/rootfs.h"
#include "store/subvol.h"

#define DISK_FILE "disk"
#define LIMITED   "limited" /* a subvolume with a limit of its own, for the disk alone */

/* Of what a guest may take of the store: see store/quota.h for why it is more than its disk. */
#define LIMIT_DISKS 2
#define LIMIT_MORE  (64 * CS_MIB)
#define MAKE_TRIES  100

/* ---- making -------------------------------------------------------------------------------- */

static int taken(const char *guest, struct cs_err *err)
{
	return cs_fail(err, EEXIST,
		       "guest '%s': there is one of this name (clearstore remove %s, or take "
		       "another)",
		       guest, guest);
}

int cs_folder_delete(int marks_fd, const char *name)
{
	cs_auto(cs_fd_closep) int fd = -1;

	/* A subvolume goes as a whole; removing a tree stops at it. */
	fd = openat(marks_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0 && !cs_missing_at(fd, LIMITED))
		cs_subvol_remove(fd, LIMITED, NULL);
	cs_fd_closep(&fd);
	return cs_remove_tree_at(marks_fd, name);
}

int cs_folder_make(int parent_fd, const char *name, int *ret, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	bool made;
	int r;

	for (unsigned i = 0; i < MAKE_TRIES; i++) {
		cs_fd_closep(&fd);
		made = mkdirat(parent_fd, name, 0711) == 0;
		if (!made && errno != EEXIST)
			return cs_fail_errno(err, errno, "cannot make its folder");
		r = cs_folder_lock(parent_fd, name, true, &fd);
		if (r == -ENOENT)
			continue; /* swept before it was locked, or the other's is in place now */
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot lock its folder");
		if (made) {
			/* the umask must not keep the monitor from passing through */
			if (fchmod(fd, 0711) < 0)
				return cs_fail_errno(err, errno, "cannot open up its folder");
			*ret = cs_steal_fd(&fd);
			return 0;
		}
		r = cs_folder_delete(parent_fd, name);
		if (r < 0)
			return cs_fail_errno(err, -r, "cannot delete what was left of it");
	}
	return cs_fail(err, EBUSY, "others make and remove it all the time");
}

/* Where the disk is to be made: in the folder (dirfd) itself, or where there are quotas below it.
 * Not the folder is limited: what is parked is moved into it, and the log is the monitor's. */
static int open_disk_folder(int dirfd, uint64_t disk_bytes, int *ret, struct cs_err *err)
{
	const bool limited = cs_quota_on(dirfd);
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	if (limited) {
		r = cs_subvol_create(dirfd, LIMITED, err);
		if (r < 0)
			return r;
	}
	fd = openat(dirfd, limited ? LIMITED : ".",
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot open its folder");
	if (limited) {
		r = cs_quota_limit(fd, LIMIT_DISKS * disk_bytes + LIMIT_MORE, err);
		if (r < 0)
			return r;
	}
	*ret = cs_steal_fd(&fd);
	return 0;
}

int cs_overlay_open_disk(int dirfd, bool write)
{
	const int how = (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK;
	int fd;

	fd = openat(dirfd, DISK_FILE, how | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		fd = openat(dirfd, LIMITED "/" DISK_FILE, how | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* (bytes): as large as it is to be; 0: as the template's. */
static int make_disk(const struct cs_template *t, int dirfd, uint64_t bytes, struct cs_card *card,
		     struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1, folder = -1;
	struct cs_view view;
	struct stat st;
	int r;

	r = cs_template_view(t, CS_PART_DISK, &view, err);
	if (r == -ENOENT)
		return cs_fail(err, ENOENT,
			       "template '%s' has no disk for a guest that persists (import it "
			       "anew)",
			       cs_template_name(t));
	if (r < 0)
		return r;
	if (view.offset)
		return cs_fail(err, EINVAL, "template '%s': its disk is no file of its own",
			       cs_template_name(t));
	r = open_disk_folder(dirfd, bytes ? bytes : view.bytes, &folder, err);
	if (r == 0)
		r = cs_clone_file(view.fd, folder, DISK_FILE, NULL, err);
	if (r == 0 && bytes && bytes != view.bytes)
		r = cs_rootfs_resize_disk(folder, DISK_FILE, bytes, err);
	if (r < 0)
		return r;
	fd = cs_overlay_open_disk(dirfd, false);
	if (fd < 0 || fstat(fd, &st) < 0 || fsync(fd) < 0)
		return cs_fail_errno(err, errno, "disk");
	card->disk_bytes = (uint64_t)st.st_size;
	return 0;
}

/* Fill the folder (dirfd). */
static int furnish(const struct cs_template *t, int dirfd, struct cs_card *card, struct cs_err *err)
{
	const uint64_t bytes = card->disk_bytes;
	int r;

	card->disk_bytes = 0;
	if (card->persist) {
		r = make_disk(t, dirfd, bytes, card, err);
		if (r < 0)
			return r;
	}
	return cs_card_save_at(dirfd, card, err);
}

int cs_overlay_publish(struct cs_store *store, int marks_fd, const char *half,
		       const struct cs_card *card, struct cs_err *err)
{
	int r = cs_mark_put(marks_fd, card, err);

	/* A guest's folder is never empty, so this cannot replace one. */
	if (r == 0 && renameat(marks_fd, half, cs_store_guests_fd(store), card->guest) < 0) {
		r = -errno;
		if (r == -EEXIST || r == -ENOTEMPTY || r == -ENOTDIR)
			r = taken(card->guest, err);
		else
			cs_fail_errno(err, -r, "cannot put its folder in place");
	}
	return r;
}

/* Under the lock of .marks/(half): build it there and put it in its place. */
static int build(struct cs_store *store, int marks_fd, const struct cs_template *t,
		 struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	char half[CS_MARK_ROOM];
	int r;

	snprintf(half, sizeof(half), CS_MARK_NEW "%s", card->guest);
	r = cs_folder_make(marks_fd, half, &dirfd, err);
	if (r < 0)
		return r;
	r = furnish(t, dirfd, card, err);
	if (r == 0)
		r = cs_overlay_publish(store, marks_fd, half, card, err);
	if (r < 0) {
		cs_folder_delete(marks_fd, half);
		return r;
	}
	if (card->persist)
		r = cs_sync_dir(cs_store_guests_fd(store));
	return r < 0 ? cs_fail_errno(err, -r, "cannot sync 'guests'") : 0;
}

int cs_overlay_create(struct cs_store *store, const struct cs_template *t,
		      const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int marks_fd = -1;
	struct cs_card mine = *card; /* borrows its strings */
	struct cs_ram plan;
	int r;

	r = cs_name_check("guest", card->guest, err);
	if (r < 0)
		return r;
	if (!cs_missing_at(cs_store_guests_fd(store), card->guest))
		return taken(card->guest, err);
	mine.pid = 0;
	mine.pid_start_ticks = 0;
	mine.started = 0;
	r = cs_ram_plan(card->ram_bytes, 0, &plan, err);
	if (r == 0)
		r = cs_template_check_present(store, t, err);
	if (r == 0)
		r = cs_boot_id(mine.boot, err);
	if (r == 0)
		r = cs_marks_open(store, &marks_fd, err);
	if (r == 0)
		r = build(store, marks_fd, t, &mine, err);
	if (r < 0 && r != -EEXIST)
		return cs_fail_in(err, r, "guest '%s'", card->guest);
	return r;
}

/* ---- deleting ------------------------------------------------------------------------------ */

int cs_overlay_delete(struct cs_store *store, int marks_fd, const char *guest,
		      const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int leftover_fd = -1;
	char old[CS_MARK_ROOM];
	int r;

	snprintf(old, sizeof(old), CS_MARK_OLD "%s", guest);
	/* An earlier guest of this name that was not deleted to the end; or is being, then wait. */
	r = cs_folder_lock(marks_fd, old, true, &leftover_fd);
	if (r == 0)
		r = cs_folder_delete(marks_fd, old);
	if (r < 0 && r != -ENOENT)
		return cs_fail_errno(err, -r, "guest '%s': cannot delete 'guests/.marks/%s'", guest,
				     old);
	if (renameat(cs_store_guests_fd(store), guest, marks_fd, old) < 0)
		return cs_fail_errno(err, errno, "guest '%s': cannot take it out", guest);
	if (card && card->persist) /* or it would be there again after a power cut, half deleted */
		cs_sync_dir(cs_store_guests_fd(store));
	r = cs_folder_delete(marks_fd, old);
	if (r < 0)
		return cs_fail_errno(err, -r, "guest '%s': cannot delete 'guests/.marks/%s'", guest,
				     old);
	if (card)
		cs_mark_drop(marks_fd, card);
	return 0;
}

int cs_overlay_remove(struct cs_store *store, const char *guest, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int marks_fd = -1;
	cs_auto(cs_fd_closep) int lock_fd = -1;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	int r;

	r = cs_marks_open(store, &marks_fd, err);
	if (r < 0)
		return r;
	r = cs_guest_lock(store, guest, true, &lock_fd, err);
	if (r < 0)
		return r;
	r = cs_card_load_at(cs_store_guests_fd(store), lock_fd, guest, &card, err);
	if (r < 0 && r != -EBADMSG && r != -EPROTO)
		return r;
	/* The exit file is asked too: of a broken card nothing else is known. */
	if ((card && card->state == CS_GUEST_RUNNING) || cs_life_exit_held(lock_fd))
		return cs_fail(err, EBUSY, "guest '%s': runs (clearstore stop %s, or kill)", guest,
			       guest);
	return cs_overlay_delete(store, marks_fd, guest, card, err);
}
