/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What dead processes left behind is found by one look into .marks (life.h), without opening a
 * single guest's folder: per running guest this is a directory entry and a kill(pid, 0). */
#include "cow/overlay.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cow/card-private.h"
#include "cow/life.h"
#include "cow/overlay-private.h"
#include "cow/spare.h"
#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"

#define PID_MAX (1u << 22)
/* Up to so many marks are looked through by every command. More are when the last look was so long
 * ago: with thousands of guests it takes milliseconds, and a ping less. */
#define MARKS_FEW 64
#define LOOK_NS   INT64_C(1000000000)

struct sweep {
	struct cs_store *store;
	int marks_fd;
	bool booted;        /* nobody looked yet since the host's boot: then a pid says nothing */
	int failure;        /* the first; the rest is swept all the same */
	struct cs_err *err; /* its words */
};

static void note(struct sweep *sweep, int r, const struct cs_err *words)
{
	if (sweep->failure)
		return;
	sweep->failure = r;
	if (sweep->err)
		*sweep->err = *words;
}

/* ---- a guest -------------------------------------------------------------------------------- */

/* Bring a guest into order whose card was just read under its lock. 1: its mark has done its work.
 */
static int tidy(struct sweep *sweep, int dirfd, struct cs_card *card, struct cs_err *err)
{
	bool waits = cs_life_owner_waits(card);
	bool abandoned = card->remove_on_exit && !waits && (card->owner_pid || card->pid);
	int r;

	if (card->state == CS_GUEST_RUNNING) {
		if (!abandoned || !card->owner_pid)
			return 0; /* all is well, or there was never anybody to wait for it */
		r = cs_life_kill(card, err);
		if (r < 0)
			return r;
		cs_life_judge(dirfd, card);
	}
	cs_guest_drop_sockets(dirfd);
	if (!abandoned)
		return !card->remove_on_exit || !waits;
	r = cs_overlay_delete(sweep->store, sweep->marks_fd, card->guest, card, err);
	return r < 0 ? r : 1;
}

/* Look at a guest for which (mark) was found; NULL: at all of them. */
static void sweep_guest(struct sweep *sweep, const char *guest, const char *mark)
{
	cs_auto(cs_fd_closep) int dirfd = -1;
	cs_auto(cs_card_freep) struct cs_card *card = NULL;
	struct cs_err err = { .code = 0 };
	char own[CS_MARK_ROOM];
	int r;

	r = cs_guest_lock(sweep->store, guest, false, &dirfd, &err);
	if (r == -EBUSY)
		return; /* somebody is at work on it */
	if (r == 0)
		r = cs_card_load_at(cs_store_guests_fd(sweep->store), dirfd, guest, &card, &err);
	if (r == 0)
		r = tidy(sweep, dirfd, card, &err);
	else if (r == -ENOENT || r == -EBADMSG || r == -EPROTO)
		r = 1; /* gone, or not to be read: `list` shows that one */
	if (r < 0) {
		note(sweep, r, &err);
		return;
	}
	/* A mark that is not the card's is of a start that came to nothing. */
	if (mark && (r > 0 || !cs_mark_of(card, own) || strcmp(own, mark) != 0))
		unlinkat(sweep->marks_fd, mark, 0);
}

/* ---- a mark --------------------------------------------------------------------------------- */

/* Take "PID-OWNER-NAME" apart; the name is not looked at. (mark) is cut up. */
static bool parse_mark(char *mark, pid_t *ret_pid, pid_t *ret_owner, const char **ret_guest)
{
	char *owner = strchr(mark, '-');
	char *guest = owner ? strchr(owner + 1, '-') : NULL;
	uint64_t pid, owner_pid;

	if (!guest)
		return false;
	*owner++ = '\0';
	*guest++ = '\0';
	if (cs_parse_u64(mark, PID_MAX, &pid) < 0 || cs_parse_u64(owner, PID_MAX, &owner_pid) < 0)
		return false;
	*ret_pid = (pid_t)pid;
	*ret_owner = (pid_t)owner_pid;
	*ret_guest = guest;
	return true;
}

/* Is there no process (pid), or only its corpse? kill(pid, 0) would do but for corpses, which may
 * lie there as long as their parent likes. move_pages() of no pages does nothing but look whether
 * the process has memory (mm/migrate.c find_mm_struct()): ESRCH: no process, EINVAL: no memory any
 * more. EPERM: there is one, of another user; a kernel without it (ENOSYS) is asked by kill(). */
static bool is_dead(pid_t pid)
{
	if (!pid || syscall(SYS_move_pages, pid, 0UL, NULL, NULL, NULL, 0) == 0)
		return false;
	if (errno == ENOSYS)
		return kill(pid, 0) < 0 && errno == ESRCH;
	return errno == ESRCH || errno == EINVAL;
}

static void sweep_folder(struct sweep *sweep, const char *name)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct cs_err err = { .code = 0 };
	int r;

	r = cs_folder_lock(sweep->marks_fd, name, false, &fd);
	if (r == -EBUSY || r == -ENOENT)
		return;
	if (r == 0)
		r = cs_folder_delete(sweep->marks_fd, name);
	if (r < 0) {
		cs_fail_errno(&err, -r, "cannot delete 'guests/.marks/%s'", name);
		note(sweep, r, &err);
	}
}

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

static void sweep_mark(struct sweep *sweep, const char *name)
{
	char parts[CS_MARK_ROOM];
	const char *guest;
	pid_t pid, owner;

	if (begins(name, CS_MARK_NEW) || begins(name, CS_MARK_OLD) || begins(name, CS_MARK_PARK)) {
		sweep_folder(sweep, name);
		return;
	}
	if (strlen(name) >= sizeof(parts))
		return;
	memcpy(parts, name, strlen(name) + 1);
	if (parse_mark(parts, &pid, &owner, &guest) &&
	    (sweep->booted || is_dead(pid) || is_dead(owner)) &&
	    cs_name_check("guest", guest, NULL) == 0)
		sweep_guest(sweep, guest, name);
}

/* ---- all ------------------------------------------------------------------------------------ */

/* The names in (dirfd), taken down at once: what is swept must not disturb the reading. */
static int list(int dirfd, struct dirent ***ret, struct cs_err *err)
{
	int n = scandirat(dirfd, ".", ret, NULL, NULL);

	if (n < 0)
		return cs_fail_errno(err, errno, "cannot read 'guests'");
	return n;
}

static void free_list(struct dirent **entry, int n)
{
	for (int i = 0; i < n; i++)
		free(entry[i]);
	free(entry);
}

/* A power cut may have taken marks: after a boot look at each guest once. */
static int sweep_all(struct sweep *sweep, const char *boot_mark, struct cs_err *err)
{
	struct dirent **entry;
	int fd, n;

	n = list(cs_store_guests_fd(sweep->store), &entry, err);
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		if (cs_name_check("guest", entry[i]->d_name, NULL) == 0)
			sweep_guest(sweep, entry[i]->d_name, NULL);
	}
	free_list(entry, n);
	fd = openat(sweep->marks_fd, boot_mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make 'guests/.marks/%s'", boot_mark);
	close(fd);
	return 0;
}

/* Were there many marks, and all looked through a moment ago? The mark of this boot says so by its
 * size and time; one from the future does not count. */
static bool is_fresh(const struct sweep *sweep, const char *boot_mark)
{
	struct timespec now;
	struct stat st;
	int64_t age_ns;

	if (fstatat(sweep->marks_fd, boot_mark, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_size <= MARKS_FEW)
		return false;
	clock_gettime(CLOCK_REALTIME, &now);
	age_ns = (now.tv_sec - st.st_mtim.tv_sec) * INT64_C(1000000000) + now.tv_nsec -
		 st.st_mtim.tv_nsec;
	return age_ns >= 0 && age_ns < LOOK_NS;
}

/* All (n) have been looked through. */
static void note_look(const struct sweep *sweep, const char *boot_mark, int n)
{
	cs_auto(cs_fd_closep) int fd = -1;
	struct stat st;

	if (fstatat(sweep->marks_fd, boot_mark, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    (n <= MARKS_FEW && st.st_size <= MARKS_FEW))
		return;
	/* The time of a file that keeps its size changes all the same (truncate(2)). */
	fd = openat(sweep->marks_fd, boot_mark, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && ftruncate(fd, n) < 0)
		return; /* then the next one looks, too */
}

int cs_overlay_sweep(struct cs_store *store, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int marks_fd = -1;
	struct sweep sweep = { .store = store, .err = err };
	char boot_mark[CS_MARK_ROOM] = CS_MARK_BOOT;
	struct cs_err words = { .code = 0 };
	struct dirent **entry;
	int n, r;

	r = cs_marks_open(store, &marks_fd, err);
	if (r == 0)
		r = cs_boot_id(boot_mark + strlen(boot_mark), err);
	if (r < 0)
		return r;
	sweep.marks_fd = marks_fd;
	if (is_fresh(&sweep, boot_mark))
		return 0;
	sweep.booted = cs_missing_at(marks_fd, boot_mark);
	n = list(marks_fd, &entry, err);
	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		if (!begins(entry[i]->d_name, CS_MARK_BOOT))
			sweep_mark(&sweep, entry[i]->d_name);
		else if (strcmp(entry[i]->d_name, boot_mark) != 0)
			unlinkat(marks_fd, entry[i]->d_name, 0);
	}
	free_list(entry, n);
	if (cs_spare_sweep(store, &words) < 0)
		note(&sweep, -words.code, &words);
	if (sweep.booted) {
		r = sweep_all(&sweep, boot_mark, err);
		if (r < 0)
			return r;
	}
	note_look(&sweep, boot_mark, n);
	return sweep.failure;
}
