/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cow/life.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cow/park.h"
#include "store/base/io.h"
#include "store/base/name.h"
#include "store/base/num.h"
#include "store/base/proc.h"

#define MARKS          ".marks"
#define EXIT_FILE      "exit"
#define EXIT_BYTES_MAX 64
#define PAUSED_LINE    "paused\n" /* of a monitor that runs; any last word is longer */
#define BOOT_ID        "/proc/sys/kernel/random/boot_id"
#define KILL_MS        5000
#define LOCK_TRIES     100

int cs_boot_id(char ret[CS_BOOT_ID_ROOM], struct cs_err *err)
{
	cs_auto(cs_mem_freep) char *text = NULL;
	size_t length;
	int r;

	r = cs_read_file_at(AT_FDCWD, BOOT_ID, 256, &text, NULL);
	if (r < 0)
		return cs_fail_errno(err, -r, "cannot read '%s'", BOOT_ID);
	length = strspn(text, "0123456789abcdef-");
	if (!length || length >= CS_BOOT_ID_ROOM)
		return cs_fail(err, EBADMSG, "'%s': not an id", BOOT_ID);
	memcpy(ret, text, length);
	ret[length] = '\0';
	return 0;
}

int cs_process_start(pid_t pid, uint64_t *ret_ticks)
{
	struct cs_proc_stat stat;
	int r;

	r = cs_proc_stat("/proc", pid, &stat);
	if (r < 0)
		return r;
	if (stat.state == 'Z' || stat.state == 'X')
		return -ESRCH;
	*ret_ticks = stat.start_ticks;
	return 0;
}

bool cs_process_alive(pid_t pid, uint64_t start_ticks)
{
	uint64_t ticks;

	return pid > 0 && cs_process_start(pid, &ticks) == 0 && ticks == start_ticks;
}

/* ---- folders and locks --------------------------------------------------------------------- */

/* 1: (name) in (dirfd) still leads to the open folder (fd), 0: to another, -ENOENT: to nothing. */
static int leads_to(int fd, int dirfd, const char *name)
{
	struct stat ours, there;

	if (fstat(fd, &ours) < 0 || fstatat(dirfd, name, &there, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

int cs_folder_lock(int dirfd, const char *name, bool wait, int *ret)
{
	cs_auto(cs_fd_closep) int fd = -1;
	int r;

	/* Whoever held the lock may have renamed or deleted the folder meanwhile: look again. */
	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		cs_fd_closep(&fd);
		fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		while (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
			if (errno == EWOULDBLOCK)
				return -EBUSY;
			if (errno != EINTR)
				return -errno;
		}
		r = leads_to(fd, dirfd, name);
		if (r < 0)
			return r;
		if (r > 0) {
			*ret = cs_steal_fd(&fd);
			return 0;
		}
	}
	return -EBUSY;
}

static int guest_failed(const char *guest, int r, struct cs_err *err)
{
	if (r == -ENOENT)
		return cs_fail(err, ENOENT,
			       "guest '%s': there is none of this name (clearstore list shows all)",
			       guest);
	if (r == -EBUSY)
		return cs_fail(err, EBUSY,
			       "guest '%s': is being started or removed right now (try again)",
			       guest);
	return cs_fail_errno(err, -r, "guest '%s'", guest);
}

int cs_guest_open(struct cs_store *store, const char *guest, int *ret, struct cs_err *err)
{
	int fd, r;

	r = cs_name_check("guest", guest, err);
	if (r < 0)
		return r;
	fd = openat(cs_store_guests_fd(store), guest,
		    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return guest_failed(guest, -errno, err);
	*ret = fd;
	return 0;
}

int cs_guest_lock(struct cs_store *store, const char *guest, bool wait, int *ret,
		  struct cs_err *err)
{
	int r;

	r = cs_name_check("guest", guest, err);
	if (r < 0)
		return r;
	r = cs_folder_lock(cs_store_guests_fd(store), guest, wait, ret);
	return r < 0 ? guest_failed(guest, r, err) : 0;
}

void cs_guest_drop_sockets(int dirfd)
{
	unlinkat(dirfd, CS_CONTROL_SOCKET, 0);
	unlinkat(dirfd, CS_VSOCK_SOCKET, 0);
}

/* ---- marks --------------------------------------------------------------------------------- */

int cs_marks_open(struct cs_store *store, int *ret, struct cs_err *err)
{
	int guests_fd = cs_store_guests_fd(store);
	int fd;

	if (mkdirat(guests_fd, MARKS, 0700) < 0 && errno != EEXIST)
		return cs_fail_errno(err, errno, "cannot make 'guests/%s'", MARKS);
	fd = openat(guests_fd, MARKS, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot open 'guests/%s'", MARKS);
	*ret = fd;
	return 0;
}

bool cs_mark_of(const struct cs_card *card, char ret[CS_MARK_ROOM])
{
	if (!card->pid && !card->owner_pid)
		return false;
	snprintf(ret, CS_MARK_ROOM, "%d-%d-%s", (int)card->pid, (int)card->owner_pid, card->guest);
	return true;
}

int cs_mark_put(int marks_fd, const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int fd = -1;
	char name[CS_MARK_ROOM];

	if (!cs_mark_of(card, name))
		return 0;
	fd = openat(marks_fd, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return cs_fail_errno(err, errno, "cannot make 'guests/%s/%s'", MARKS, name);
	return 0;
}

void cs_mark_drop(int marks_fd, const struct cs_card *card)
{
	char name[CS_MARK_ROOM];

	if (cs_mark_of(card, name))
		unlinkat(marks_fd, name, 0);
}

/* ---- the exit file ------------------------------------------------------------------------- */

int cs_card_open_exit(int dirfd, int *ret)
{
	cs_auto(cs_fd_closep) int fd = -1;

	fd = openat(dirfd, EXIT_FILE, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (ftruncate(fd, 0) < 0)
		return -errno;
	*ret = cs_steal_fd(&fd);
	return 0;
}

int cs_card_write_exit(int fd, const char *reason, int status)
{
	char line[EXIT_BYTES_MAX];
	int n;

	n = snprintf(line, sizeof(line), "%s %d\n", reason, status);
	if (n < 0 || (size_t)n >= sizeof(line))
		return -EINVAL;
	/* in one write: a kill leaves the whole line or none */
	return cs_write_full(fd, line, (size_t)n);
}

void cs_life_drop_exit(int dirfd)
{
	unlinkat(dirfd, EXIT_FILE, 0);
}

bool cs_life_exit_held(int dirfd)
{
	cs_auto(cs_fd_closep) int fd = -1;

	fd = openat(dirfd, EXIT_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* Take "WORD STATUS\n" apart. The monitor that wrote it served a guest and may have been taken
 * over: anything else is false. */
static bool parse_exit(char *line, const char **ret_reason, int *ret_status)
{
	static const char *const reasons[] = { "poweroff", "reboot", "crash", "request" };
	char *blank = strchr(line, ' ');
	char *end = strchr(line, '\n');
	uint64_t status = 0;

	if (!blank || !end || end < blank || end[1])
		return false;
	*blank = '\0';
	*end = '\0';
	if (strcmp(blank + 1, "-1") != 0 && cs_parse_u64(blank + 1, 255, &status) < 0)
		return false;
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++) {
		if (strcmp(line, reasons[i]) == 0) {
			*ret_reason = reasons[i];
			*ret_status = blank[1] == '-' ? -1 : (int)status;
			return true;
		}
	}
	return false;
}

/* ---- judging ------------------------------------------------------------------------------- */

static bool is_this_boot(const struct cs_card *card)
{
	char boot[CS_BOOT_ID_ROOM];

	return cs_boot_id(boot, NULL) == 0 && strcmp(boot, card->boot) == 0;
}

static void set_state(struct cs_card *card, enum cs_guest_state state, const char *reason)
{
	card->state = state;
	snprintf(card->stop_reason, sizeof(card->stop_reason), "%s", reason);
}

void cs_life_judge(int dirfd, struct cs_card *card)
{
	cs_auto(cs_mem_freep) char *line = NULL;
	const char *reason;
	int status, r;

	card->exit_status = -1;
	card->paused = false;
	/* The boot is asked last: it costs a file, and only a living pid makes it matter. */
	if (cs_process_alive(card->pid, card->pid_start_ticks) && is_this_boot(card)) {
		set_state(card, CS_GUEST_RUNNING, "");
		card->paused =
			cs_read_file_at(dirfd, EXIT_FILE, EXIT_BYTES_MAX, &line, NULL) == 0 &&
			strcmp(line, PAUSED_LINE) == 0;
		return;
	}
	if (card->pid && cs_parked_there(dirfd)) {
		set_state(card, CS_GUEST_PARKED, "parked");
		return;
	}
	r = cs_read_file_at(dirfd, EXIT_FILE, EXIT_BYTES_MAX, &line, NULL);
	if (!card->pid) {
		set_state(card, CS_GUEST_STOPPED, "new");
	} else if (r == -ENOENT || (r == 0 && (!line[0] || strcmp(line, PAUSED_LINE) == 0))) {
		set_state(card, CS_GUEST_CRASHED, "killed");
	} else if (r < 0 || !parse_exit(line, &reason, &status)) {
		set_state(card, CS_GUEST_CRASHED, "crash");
	} else {
		set_state(card, strcmp(reason, "crash") ? CS_GUEST_STOPPED : CS_GUEST_CRASHED,
			  reason);
		card->exit_status = status;
	}
}

bool cs_life_owner_waits(const struct cs_card *card)
{
	return cs_process_alive(card->owner_pid, card->owner_start_ticks) && is_this_boot(card);
}

int cs_life_kill(const struct cs_card *card, struct cs_err *err)
{
	cs_auto(cs_fd_closep) int pidfd = -1;
	struct pollfd polled;
	int r;

	pidfd = pidfd_open(card->pid, 0);
	if (pidfd < 0)
		return errno == ESRCH ? 0
				      : cs_fail_errno(err, errno, "guest '%s': process %d",
						      card->guest, (int)card->pid);
	/* Asked again with the descriptor open: from here on the pid cannot be reused. */
	if (!cs_process_alive(card->pid, card->pid_start_ticks))
		return 0;
	if (pidfd_send_signal(pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		return cs_fail_errno(err, errno, "guest '%s': cannot kill process %d", card->guest,
				     (int)card->pid);
	polled = (struct pollfd){ .fd = pidfd, .events = POLLIN };
	do {
		r = poll(&polled, 1, KILL_MS);
	} while (r < 0 && errno == EINTR);
	if (r <= 0)
		return cs_fail(err, ETIMEDOUT, "guest '%s': process %d does not die", card->guest,
			       (int)card->pid);
	return 0;
}
